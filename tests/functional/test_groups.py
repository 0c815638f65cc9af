"""Baselines from the other draws of a group, rectangular or ragged: the means are sums over all draws of all groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import close

LOGITS = torch.tensor(
    [[0.2, -0.5, 0.9], [1.4, 0.1, -0.7], [-0.3, 0.6, 0.0], [-1.0, 0.4, 0.8]], dtype=torch.float64
)  # [prompts, outcomes]
COSTS = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.5], [2.0, -1.0, 0.0], [0.3, 0.3, 1.0]], dtype=torch.float64)


def test_leave_one_out_by_ids_by_hand() -> None:
    costs = torch.tensor([1.0, 2, 1, 2, 6, 0, 4])
    found = sp.leave_one_out(costs, groups=torch.tensor([5, 5, 9, 9, 9, 2, 2]))
    assert found.tolist() == [2, 1, 4, 3.5, 1.5, 4, 0]


def test_leave_one_out_with_weights_by_hand() -> None:
    found = sp.leave_one_out(torch.tensor([1.0, 2, 6]).double(), 0, weight=torch.tensor([1.0, 1, 2]))
    close(found, torch.tensor([14 / 3, 13 / 3, 3 / 2], dtype=torch.float64))


def test_shrinkage_by_hand() -> None:
    costs = torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.float64)
    expected = torch.tensor([[3 / 4, 1 / 4], [1 / 3, 1 / 3], [2 / 3, 2 / 3], [1 / 4, 3 / 4]], dtype=torch.float64)
    close(sp.shrinkage(costs, dim=1), expected)
    close(sp.shrinkage(costs.T, dim=0), expected.T)


def test_shrinkage_of_a_single_draw_by_hand() -> None:
    costs = torch.tensor([0.0, 1, 1, 1, 0, 0, 1], dtype=torch.float64)
    found = sp.shrinkage(costs, groups=torch.tensor([0, 0, 1, 1, 2, 2, 3]))
    close(found, torch.tensor([1, 0, 5 / 8, 5 / 8, 5 / 6, 5 / 6, 1 / 2], dtype=torch.float64))


def test_ids_and_dimension_agree() -> None:
    costs, weight = torch.randn(2, 6, 5, dtype=torch.float64)
    weight = weight.abs()
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.8
    mask[:, :2] = True
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(6).repeat_interleave(5)[order] * 100 - 7
    for w in (None, weight):
        for m in (None, mask):
            options = {"mask": None if m is None else m.flatten()[order], "groups": ids}
            found = sp.leave_one_out(
                costs.flatten()[order], weight=None if w is None else w.flatten()[order], **options
            )
            close(found, sp.leave_one_out(costs, 1, m, weight=w).flatten()[order])
            close(sp.shrinkage(costs.flatten()[order], **options), sp.shrinkage(costs, 1, m).flatten()[order])


def test_weighted_leave_one_out_is_the_mean_of_the_others() -> None:
    costs, weight = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    weight[0, 1] = weight[1, :3] = 0
    found = sp.leave_one_out(costs, 1, weight=weight)
    for a in range(3):
        for i in range(4):
            others = [j for j in range(4) if j != i]
            total = weight[a, others].sum()
            expected = weight[a, others] @ costs[a, others] / total if total else torch.zeros((), dtype=torch.float64)
            close(found[a, i], expected)


def enumerated(sizes: list[int], baseline: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mean of Σ (c - b) ∇log p over all outcomes of all draws, and the exact gradient: [prompts, outcomes]."""
    prompt = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    outcomes = torch.cartesian_prod(*[torch.arange(3)] * len(prompt))  # [worlds, draws]
    logits = LOGITS[torch.arange(len(sizes)) % 4].clone().requires_grad_()
    table = logits.log_softmax(1)
    log_prob = table[prompt, outcomes]
    costs = COSTS[prompt % 4, outcomes]
    base = torch.func.vmap(lambda c: baseline(c, prompt))(costs)
    share = 1 / torch.tensor(sizes, dtype=torch.float64)[prompt]
    found = (log_prob.sum(1).exp().detach() * ((costs - base) * log_prob * share).sum(1)).sum()
    exact = (table.exp() * COSTS[torch.arange(len(sizes)) % 4]).sum()
    return torch.autograd.grad(found, logits, retain_graph=True)[0], torch.autograd.grad(exact, logits)[0]


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "shrinkage": lambda c, ids: sp.shrinkage(c, groups=ids),
    "shrinkage, rectangular": lambda c, ids: sp.shrinkage(c.view(4, 2), dim=1).flatten(),
    "leave-one-out": lambda c, ids: sp.leave_one_out(c, groups=ids),
    "leave-one-out, weighted by a function of the own cost": lambda c, ids: sp.leave_one_out(
        c, groups=ids, weight=c.square() + 0.1
    ),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_leave_the_mean_alone(name: str) -> None:
    close(*enumerated([2, 2, 2, 2], BASELINES[name]))


@pytest.mark.parametrize("sizes", [[1] * 6, [3, 1, 2, 1]], ids=str)
def test_shrinkage_of_groups_of_one_leaves_the_mean_alone(sizes: list[int]) -> None:
    close(*enumerated(sizes, BASELINES["shrinkage"]))


def test_the_own_draw_in_the_mean_is_seen() -> None:
    """The mutant of all of these: it scales every prompt by (K - 1) / K, which ragged groups make a bias."""

    def with_own(c: Tensor, ids: Tensor) -> Tensor:
        sums = torch.zeros(4, dtype=c.dtype).index_add(0, ids, c)
        return (sums / torch.bincount(ids))[ids]

    found, expected = enumerated([3, 1, 2, 2], with_own)
    assert (found - expected).norm() > 0.01 * expected.norm()


def test_shrinkage_lowers_the_variance_of_hard_and_easy_prompts() -> None:
    """0/1 rewards of probability .3, four prompts of two draws: 0.45 times that of leave-one-out, by enumeration."""
    p = torch.tensor(0.3, dtype=torch.float64)
    bits = torch.cartesian_prod(*[torch.arange(2)] * 8).double()  # [256, 8]
    probs = torch.where(bits > 0, p, 1 - p).prod(1)
    score = bits - p

    def variance(base: Tensor) -> Tensor:
        estimate = ((bits - base) * score).view(-1, 4, 2).mean(2)
        mean = probs @ estimate
        return (probs @ (estimate - mean).square()).sum()

    shrunk = torch.stack([sp.shrinkage(row.view(4, 2), dim=1).flatten() for row in bits])
    plain = torch.stack([sp.leave_one_out(row.view(4, 2), dim=1).flatten() for row in bits])
    assert float(variance(shrunk) / variance(plain)) == pytest.approx(0.45, abs=0.01)


def test_shrinkage_refusals() -> None:
    with pytest.raises(ValueError, match=r"shrinkage needs four groups or more, .*; got 3\. Take leave_one_out"):
        sp.shrinkage(torch.randn(3, 2), dim=1)
    with pytest.raises(ValueError, match=r"shrinkage needs one cost for each draw, .*; got \[4, 2\]"):
        sp.shrinkage(torch.randn(4, 2), groups=torch.arange(4))
    with pytest.raises(ValueError, match="shrinkage needs finite numbers in costs; got nan"):
        sp.shrinkage(torch.full((4, 2), torch.nan), dim=1)


def test_groups_compile() -> None:
    costs, ids = torch.randn(8, dtype=torch.float64), torch.tensor([3, 3, 0, 0, 9, 9, 1, 1])

    def both(costs: Tensor, ids: Tensor) -> Tensor:
        return sp.leave_one_out(costs, groups=ids) + sp.shrinkage(costs, groups=ids)

    close(torch.compile(both, fullgraph=True, backend="aot_eager")(costs, ids), both(costs, ids))
