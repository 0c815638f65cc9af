"""Ratios in log space: by hand, at their limits, and what each level does to the mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import World, close, derivatives, error, exact, over_groups, total, world

ZERO = torch.zeros(3, dtype=torch.float64)


def test_by_hand() -> None:
    log_prob = torch.tensor([0.0, 4.0]).double()
    log_prob[1] = log_prob[1].log()
    assert sp.importance_ratio(log_prob, ZERO[:2], time_dim=0, level="geometric").item() == pytest.approx(2, abs=1e-15)
    mask = torch.tensor([False, True])
    assert sp.importance_ratio(log_prob, ZERO[:2], time_dim=0, level="geometric", mask=mask).item() == pytest.approx(4)
    ratios = torch.tensor([3, 0.2, 1], dtype=torch.float64).log()
    assert sp.importance_ratio(ratios, ZERO, clip=(0.5, 2.0)).tolist() == [2, 0.5, 1]
    assert sp.importance_ratio(ratios, ZERO, clip=(0.5, 2.0), outside="drop").tolist() == [0, 0, 1]
    close(sp.importance_ratio(ratios, ZERO, clip=(None, 2.0)), torch.tensor([2, 0.2, 1], dtype=torch.float64))
    close(sp.importance_ratio(ratios, ZERO, clip=(0.5, None)), torch.tensor([3, 0.5, 1], dtype=torch.float64))


@pytest.mark.parametrize("outside", ["clip", "drop"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_what_overflows_is_clipped_before_the_exponential(compiled: bool, outside: Any) -> None:
    log_prob = torch.tensor([0.0, 0.0, -900.0], requires_grad=True)
    behaviour = torch.tensor([-900.0, 0.0, 0.0])

    def ratio(log_prob: Tensor) -> Tensor:
        return sp.importance_ratio(log_prob, behaviour, clip=(0.5, 2.0), outside=outside)

    found = (torch.compile(ratio, fullgraph=True, backend="aot_eager") if compiled else ratio)(log_prob)
    assert found.tolist() == ([2, 1, 0.5] if outside == "clip" else [0, 1, 0])
    assert torch.autograd.grad(found.sum(), log_prob)[0].tolist() == [0, 1, 0]


def test_nan_is_not_hidden_by_clipping() -> None:
    log_prob = torch.tensor([torch.nan, 0.0], requires_grad=True)
    with pytest.raises(ValueError, match="in the ratio; got nan"):
        sp.importance_ratio(log_prob, torch.zeros(2), clip=(0.8, 1.2))
    mapped = torch.func.vmap(lambda x: sp.importance_ratio(x, torch.zeros(()), clip=(0.8, 1.2)))(log_prob)
    assert mapped[0].isnan()


@pytest.mark.parametrize("level", ["step", "prefix", "draw", "geometric"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_draw_that_does_not_exist_is_in_no_mean(level: Any, order: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob, mu = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    mask = torch.arange(3) < torch.tensor([3, 0, 1, 2]).unsqueeze(1)
    there = mask.any(1)

    def weights(*rows: Tensor) -> Tensor:
        one, other, keep = (x.permute(order) for x in rows)
        found = sp.importance_ratio(one, other, time_dim=order[1], level=level, mask=keep, self_normalize=order[0])
        return found.permute(order) if found.dim() == 2 else found

    found = weights(log_prob, mu, mask)
    close(found[there], weights(log_prob[there], mu[there], mask[there]))
    assert found[~there].eq(0).all()
    close(found[there].mean(0), torch.ones_like(found[0]))


def behaviour(w: World) -> tuple[Tensor, Tensor]:
    """Another policy's log-probabilities of the steps, and the probabilities of its draws."""
    other = (w.phi.detach() + 0.3 * torch.arange(9).sin()).view(3, 3).log_softmax(1)
    mine = w.phi.detach().view(3, 3).log_softmax(1)
    log_mu = torch.where(w.drawn, w.log_prob.detach(), torch.nan)
    for row in range(3):
        for token in range(3):
            log_mu = torch.where(log_mu == mine[row, token], other[row, token], log_mu)
    return log_mu, torch.where(w.drawn, log_mu, 0).sum(1).exp()


LEVELS: dict[str, Callable[[World, Tensor], Tensor]] = {
    "draw": lambda w, mu: sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.drawn) * total(w),
    "prefix": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, level="prefix", mask=w.drawn) * torch.where(w.mask, w.costs, 0)
    ).sum(1),
    "step": lambda w, mu: (
        torch.where(w.drawn, sp.importance_ratio(w.log_prob, mu, mask=w.drawn), 0) * total(w).unsqueeze(1)
    ).sum(1),
    "geometric": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, level="geometric", mask=w.drawn) * total(w)
    ),
    "clip": lambda w, mu: sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.drawn, clip=(0.8, 1.28)) * total(w),
    "drop": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.drawn, clip=(0.8, 1.28), outside="drop") * total(w)
    ),
}


def found_and_expected(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The mean gradient and Hessian over the draws of the other policy, and the exact ones."""
    w = world()
    log_mu, mu = behaviour(w)
    close(mu.sum(), torch.tensor(1.0, dtype=torch.float64))
    both = torch.stack([w.costs, log_mu], -1)  # so that each draw keeps its own
    mean = over_groups(
        w._replace(probs=mu, costs=both),
        1,
        lambda x: LEVELS[name](x._replace(costs=x.costs[..., 0]), x.costs[..., 1]).mean(),
    )
    return derivatives(mean, w), derivatives(exact(w), w)


@pytest.mark.parametrize("name", ["draw", "prefix"])
def test_whole_draws_and_prefixes_are_exact_to_the_second_order(name: str) -> None:
    for found, expected in zip(*found_and_expected(name), strict=True):
        close(found, expected)


@pytest.mark.parametrize("name", [name for name in LEVELS if name not in ("draw", "prefix")])
def test_what_is_called_biased_is(name: str) -> None:
    (found, _), (expected, _) = found_and_expected(name)
    assert error(found, expected) > 0.01
