"""One number from a loss at each step, its divisor, and standardization."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sampleprop as sp
from functional.agents import close

LOSS = torch.tensor([[1.0, 2, 3], [4, torch.nan, torch.nan]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize(("normalize", "expected"), [("draws", 5.0), ("length", 3.0), ("tokens", 2.5)])
def test_aggregate_by_hand(normalize: Any, expected: float) -> None:
    assert sp.aggregate(LOSS, MASK, time_dim=1, normalize=normalize).item() == expected
    assert sp.aggregate(LOSS.T, MASK.T, time_dim=0, normalize=normalize).item() == expected


def test_a_divisor_by_hand() -> None:
    assert sp.aggregate(LOSS, MASK, time_dim=1, normalize="tokens", divisor=20).item() == 0.5
    assert sp.aggregate(LOSS, MASK, time_dim=1, normalize="length", divisor=torch.tensor(4.0)).item() == 1.5


def test_count_by_hand() -> None:
    mask = torch.cat([MASK, torch.zeros(1, 3, dtype=torch.bool)])
    assert sp.count(mask, time_dim=1).item() == 2
    assert sp.count(mask, time_dim=1, normalize="length").item() == 2
    assert sp.count(mask, time_dim=1, normalize="tokens").item() == 4
    assert sp.count(mask, time_dim=None).item() == 4
    assert sp.count(~mask & mask, time_dim=1).item() == 1


@pytest.mark.parametrize("normalize", ["draws", "tokens", "length"])
def test_micro_batches_add_up(normalize: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob = torch.randn(7, 5, dtype=torch.float64, generator=generator).requires_grad_()
    mask = torch.arange(5) < torch.tensor([1, 5, 0, 2, 4, 3, 1]).unsqueeze(1)
    cost = torch.randn(7, dtype=torch.float64, generator=generator) * mask.any(1)
    n = sp.count(mask, time_dim=1, normalize=normalize)

    def loss(rows: slice, divisor: Any) -> Any:
        options: dict[str, Any] = {"time_dim": 1, "mask": mask[rows], "normalize": normalize, "divisor": divisor}
        score = sp.score_function_loss(log_prob[rows], cost[rows], **options)
        return score + sp.aggregate(
            log_prob[rows].square(), mask[rows], time_dim=1, normalize=normalize, divisor=divisor
        )

    whole = loss(slice(0, 7), n)
    parts = [loss(slice(i, i + 3), n) for i in (0, 3)] + [loss(slice(6, 7), n)]
    close(torch.stack(parts).sum(), whole)
    close(torch.autograd.grad(sum(parts), log_prob)[0], torch.autograd.grad(whole, log_prob)[0])
    alone = loss(slice(0, 7), None)
    (gradient,) = torch.autograd.grad(alone, log_prob)
    close(torch.autograd.grad(loss(slice(0, 7), n), log_prob)[0], gradient)


def test_whiten() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    kept = x[mask]
    close(sp.whiten(x, mask)[mask], (kept - kept.mean()) / kept.std())
    close(sp.whiten(x, mask, center=False)[mask], kept / kept.std())
    assert sp.whiten(x, mask)[~mask].eq(0).all()
    assert sp.whiten(torch.tensor([2.0, 2.0])).tolist() == [0, 0]
    assert not sp.whiten(x.requires_grad_()).requires_grad


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"aggregate needs finite numbers in loss; got nan at \[1, 1\]"):
        sp.aggregate(LOSS, time_dim=1)
    with pytest.raises(ValueError, match="aggregate needs normalize as one of"):
        sp.aggregate(LOSS, MASK, time_dim=1, normalize="sum")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"count needs mask as a tensor of booleans; got torch\.float64"):
        sp.count(LOSS, time_dim=1)
    with pytest.raises(ValueError, match="whiten needs finite numbers in x; got nan"):
        sp.whiten(LOSS)
