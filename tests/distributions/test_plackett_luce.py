"""Rankings: what is peculiar to them. (What all structures share: test_structures.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical

import sampleprop as sp

EXACT = {"rtol": 0, "atol": 1e-12}


def weighted() -> tuple[Tensor, sp.PlackettLuce]:
    """Two ranks among items of the weights 1, 2 and 3."""
    logits = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log().requires_grad_()
    return logits, sp.PlackettLuce(logits, 2)


def by_hand(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_scores_by_hand() -> None:
    """P(3, 2) = 1/2 · 2/3. Its score is the choice less the probabilities, at each rank."""
    logits, dist = weighted()
    log_p = dist.log_prob(torch.tensor([[2, 1], [0, 1]]))
    torch.testing.assert_close(log_p[0].exp(), by_hand(1 / 3).squeeze(), **EXACT)
    scores = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in log_p]
    torch.testing.assert_close(scores[0], by_hand(-1 / 2, 0, 1 / 2), **EXACT)
    torch.testing.assert_close(scores[1], by_hand(5 / 6, 4 / 15, -11 / 10), **EXACT)


def test_score_function_by_hand() -> None:
    logits, dist = weighted()
    estimator = sp.ScoreFunction(2)
    draw = type(estimator.propose(dist))(torch.tensor([[2, 1], [0, 1]]))
    value = estimator.combine(dist, draw, by_hand(1, 5))
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], by_hand(8 / 3, 8 / 15, -16 / 5), **EXACT)


def test_set_by_hand() -> None:
    """The set {2, 3} in either order: 1/3 + 2/6 · 3/4 = 7/12, and 6/11 under KSubset."""
    logits, dist = weighted()
    orders = dist.log_prob(torch.tensor([[2, 1], [1, 2]])).exp()
    torch.testing.assert_close(orders.sum(), by_hand(7 / 12).squeeze(), **EXACT)
    subset = sp.KSubset(logits, 2).log_prob(by_hand(0, 1, 1)).exp()
    torch.testing.assert_close(subset, by_hand(6 / 11).squeeze(), **EXACT)


@pytest.mark.parametrize(
    "estimator",
    [sp.ScoreFunction(3), sp.ScoreFunction(2, baseline=sp.SelfCritical()), sp.Enumerate(), sp.UnorderedSet(2)],
    ids=str,
)
def test_one_rank_is_a_categorical_variable(estimator: sp.Estimator[Any, Any]) -> None:
    logits = torch.randn(5, 4, generator=Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    one, other = Categorical(logits=logits), sp.PlackettLuce(logits, 1)
    draw = estimator.propose(one, generator=Generator().manual_seed(2))
    costs, probes = draw.points.double().sin(), None if draw.probes is None else draw.probes.double().sin()
    ranked = type(draw)(*(x.unsqueeze(-1) if x is not None and not x.is_floating_point() else x for x in draw))
    values = (
        estimator.combine(one, draw, costs, probe_costs=probes),
        estimator.combine(other, ranked, costs, probe_costs=probes),
    )
    torch.testing.assert_close(*values, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in values), **EXACT)


def test_points_may_be_small_integers() -> None:
    dist = sp.PlackettLuce(torch.tensor([0.1, 0.4, -0.3]), 2)
    points = dist.enumerate_support()
    assert torch.equal(dist.log_prob(points.to(torch.int32)), dist.log_prob(points))


def test_two_items_are_a_bradley_terry_model() -> None:
    logits = torch.tensor([0.7, -0.4], dtype=torch.float64)
    won = sp.PlackettLuce(logits).log_prob(torch.tensor([0, 1]))
    wanted = Bernoulli(logits=logits[0] - logits[1]).log_prob(torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(won, wanted, **EXACT)


def test_last_rank_is_certain() -> None:
    logits = torch.randn(5, generator=Generator().manual_seed(0), dtype=torch.float64)
    ranking = sp.PlackettLuce(logits).sample()
    torch.testing.assert_close(
        sp.PlackettLuce(logits).log_prob(ranking), sp.PlackettLuce(logits, 4).log_prob(ranking[:4]), **EXACT
    )


def test_many_items_in_float32() -> None:
    logits = 3 * torch.randn(4, 1000, generator=Generator().manual_seed(0))
    for k in (10, 999, 1000):
        dist, exact = sp.PlackettLuce(logits, k), sp.PlackettLuce(logits.double(), k)
        points = dist.sample()
        torch.testing.assert_close(dist.log_prob(points).double(), exact.log_prob(points), rtol=1e-6, atol=1e-4)


def test_estimators_of_the_mean_say_why_not() -> None:
    for estimator in (sp.DoubleCV(), sp.MuProp(), sp.StraightThrough()):
        refusal = estimator.refusal(sp.PlackettLuce(torch.zeros(3)))
        assert refusal is not None
        for part in ("no closed form", "ScoreFunction", "UnorderedSet", "KSubset"):
            assert part in refusal


@pytest.mark.parametrize("k", [0, 4, 1.0, True])
def test_impossible_k_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match=r"PlackettLuce needs k from 1 to the number of items.*; got k="):
        sp.PlackettLuce(torch.zeros(3), k)
