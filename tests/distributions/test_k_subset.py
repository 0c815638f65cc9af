"""Subsets: what is peculiar to them. (What all structures share: test_structures.py.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import OneHotCategorical

import sampleprop as sp
from sampleprop.distributions import k_subset
from sampleprop.estimators.through_points import Draw as Through
from sampleprop.families import recognize
from sampleprop.surrogate import straight_through

WEIGHTS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
EXACT = {"rtol": 0, "atol": 1e-12}
TWO = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)  # {0, 1} and {1, 2}


def weighted() -> tuple[Tensor, sp.KSubset]:
    """Two of three items with the weights 1, 2 and 3."""
    logits = WEIGHTS.log().requires_grad_()
    return logits, sp.KSubset(logits, 2)


def gradient(estimator: sp.Estimator[Any, Any], points: Tensor, f: Any) -> tuple[float, Tensor]:
    """The value and the gradient at these points, on two of three items, times 121."""
    logits, dist = weighted()
    draw = type(estimator.propose(dist))(points)
    value = estimator.combine(dist, draw, f(points), relaxed_f=f)
    (result,) = torch.autograd.grad(value, logits)
    return float(value.detach()), 121 * result


def by_hand(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_distribution_by_hand() -> None:
    """Weights 2, 3 and 6 of {0, 1}, {0, 2} and {1, 2}, which sum to 11."""
    logits, dist = weighted()
    torch.testing.assert_close(dist.log_prob(dist.enumerate_support()).exp(), by_hand(2, 3, 6) / 11, **EXACT)
    torch.testing.assert_close(dist.log_normalizer(logits=logits), by_hand(11).log().squeeze(), **EXACT)
    torch.testing.assert_close(dist.mean, by_hand(5, 8, 9) / 11, **EXACT)
    torch.testing.assert_close(dist.entropy(), by_hand(0.9949236325717751).squeeze(), rtol=0, atol=1e-12)
    variables = recognize(dist)
    assert isinstance(variables, sp.families.LogLinears)
    covariance = torch.stack([variables.through_mean(row) for row in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(121 * covariance, by_hand(30, -18, -12, -18, 24, -6, -12, -6, 18).reshape(3, 3), **EXACT)


def test_estimators_by_hand() -> None:
    """Each gradient sums to 0, because adding a constant to all logits changes nothing."""
    costs = torch.tensor([4.0, 1.0], dtype=torch.float64)
    value, found = gradient(sp.ScoreFunction(2), TWO, lambda x: costs)
    assert value == 2.5
    torch.testing.assert_close(found, 121 * by_hand(1.5, 0, -1.5), **EXACT)
    halved = sp.DoubleCV(2).double()
    torch.nn.init.constant_(halved.coefficient, 0.5)
    value, found = gradient(halved, TWO, lambda x: 4 * x[..., 0].square())
    assert value == 2
    torch.testing.assert_close(found, by_hand(192, -36, -156), **EXACT)
    value, found = gradient(sp.MuProp(1), TWO[:1], lambda x: 4 * x[..., 0].square())
    assert value == 4
    torch.testing.assert_close(found, by_hand(2064, -288, -1776) / 11, **EXACT)
    logits, dist = weighted()
    points = straight_through("StraightThrough", TWO[:1], dist.mean)
    through = sp.StraightThrough().combine(dist, Through(points), points[:, 0].square() + 3 * points[:, 2].square())
    assert float(through.detach()) == 1
    torch.testing.assert_close(121 * torch.autograd.grad(through, logits)[0], by_hand(60, -36, -24), **EXACT)


ONE_OF_FOUR = [
    sp.ScoreFunction(3),
    sp.ScoreFunction(2, baseline=sp.SelfCritical()),
    sp.ScoreFunction(2, baseline=sp.KnownMean(lambda x: x[..., 0], lambda dist: dist.mean[..., 0])),
    sp.ScoreFunction(3, baseline=sp.OptimalCoefficient()),
    sp.DoubleCV(3),
    sp.MuProp(2),
    sp.MuProp(2, learn=True),
    sp.Enumerate(),
    sp.UnorderedSet(2),
    sp.RaoBlackwellized(3),
]


@pytest.mark.parametrize("estimator", ONE_OF_FOUR, ids=lambda estimator: estimator.label)
def test_one_of_n_is_a_one_hot_variable(estimator: sp.Estimator[Any, Any]) -> None:
    logits = torch.randn(5, 4, generator=Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    draw = estimator.propose(OneHotCategorical(logits=logits), generator=Generator().manual_seed(2))

    def f(x: Tensor) -> Tensor:
        return (x * torch.arange(4)).sum(-1).sin() + x.square().sum(-1)

    results = []
    for dist in (OneHotCategorical(logits=logits), sp.KSubset(logits, 1)):
        probes = None if draw.probes is None else f(draw.probes)
        value = estimator.combine(dist, draw, f(draw.points), probe_costs=probes, relaxed_f=f)
        results.append((value, torch.autograd.grad(value.sum(), logits)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_mean_of_one_of_n_has_the_derivative_of_a_softmax() -> None:
    logits = torch.randn(5, 4, generator=Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    direction = torch.randn(5, 4, generator=Generator().manual_seed(2), dtype=torch.float64)
    means = OneHotCategorical(logits=logits).probs, sp.KSubset(logits, 1).mean
    torch.testing.assert_close(*means, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad((m * direction).sum(), logits)[0] for m in means), **EXACT)


@pytest.mark.parametrize(("n", "k"), [(1, 0), (2, 1), (7, 3), (64, 10), (100, 99)])
def test_complement_and_shift(n: int, k: int) -> None:
    logits = 2 * torch.randn(3, n, generator=Generator().manual_seed(n), dtype=torch.float64)
    dist = sp.KSubset(logits.requires_grad_(), k)
    torch.testing.assert_close(dist.mean, 1 - sp.KSubset(-logits, n - k).mean, **EXACT)
    torch.testing.assert_close(dist.mean, sp.KSubset(logits + 7, k).mean, **EXACT)
    torch.testing.assert_close(dist.mean.sum(-1), torch.full((3,), float(k), dtype=torch.float64), rtol=0, atol=1e-10)
    (moved,) = torch.autograd.grad((dist.mean * torch.arange(n)).sum(), logits)
    torch.testing.assert_close(moved.sum(-1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    most = sp.KSubset(torch.zeros(n, dtype=torch.float64), k)
    size = torch.tensor(float(most.support_size), dtype=torch.float64).log()
    torch.testing.assert_close(most.entropy(), size, rtol=1e-12, atol=1e-10)
    assert (dist.entropy() <= size + 1e-10).all()


@pytest.mark.parametrize(("n", "k"), [(33, 4), (100, 10), (64, 63)])
def test_long_products(n: int, k: int) -> None:
    """Against the recursion e_j(n) = e_j(n - 1) + w_n e_(j - 1)(n - 1)."""
    logits = torch.randn(n, generator=Generator().manual_seed(n), dtype=torch.float64).requires_grad_()
    sums = [torch.zeros((), dtype=torch.float64)] + k * [torch.full((), -1e9, dtype=torch.float64)]
    for logit in logits:
        sums = [sums[0], *(torch.logaddexp(sums[j], sums[j - 1] + logit) for j in range(1, k + 1))]
    dist = sp.KSubset(logits, k)
    torch.testing.assert_close(dist.log_normalizer(logits=logits), sums[k], rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad(sums[k], logits)
    torch.testing.assert_close(dist.mean, wanted, rtol=0, atol=1e-9)


def test_float32_accuracy() -> None:
    logits = 5 * torch.randn(32, 1000, generator=Generator().manual_seed(0))
    dist, exact = sp.KSubset(logits, 100), sp.KSubset(logits.double(), 100)
    a, b = dist.log_normalizer(logits=dist.logits).double(), exact.log_normalizer(logits=exact.logits)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    torch.testing.assert_close(dist.mean.double(), exact.mean, rtol=0, atol=1e-6)
    points = dist.sample()
    assert (points.sum(-1) == 100).all()
    torch.testing.assert_close(dist.log_prob(points).double(), exact.log_prob(points.double()), rtol=0, atol=1e-4)


def test_huge_logits_in_float32() -> None:
    logits = torch.tensor([[3e4, -3e4, -3e4, 1.0], [3e4, 3e4, -3e4, 3e4]])
    means = sp.KSubset(logits, 3).mean, sp.KSubset(logits.double(), 3).mean
    torch.testing.assert_close(means[0].double(), means[1], rtol=0, atol=1e-7)


def test_more_items_than_half_precision_can_count() -> None:
    """bfloat16 has no 257, and float16 no 2049."""
    for dtype, k in ((torch.bfloat16, 257), (torch.float16, 2049)):
        dist = sp.KSubset(torch.zeros(k + 3, dtype=dtype), k, validate_args=True)
        points = dist.sample()
        assert dist.log_prob(points).isfinite()
        points[points.argmax()] = 0
        with pytest.raises(ValueError, match="support"):
            dist.log_prob(points)


def test_is_not_the_set_of_the_largest_perturbed_logits() -> None:
    """{1, 2} has 6/11 here and 1/3 · 3/4 + 1/2 · 2/3 = 7/12 there."""
    _, dist = weighted()
    torch.testing.assert_close(dist.log_prob(TWO[1]).exp(), by_hand(6 / 11).squeeze(), **EXACT)


def _attached_tilt(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    c, s = RIGHT_TILT(logits, k)
    return c + logits.mean(-1, keepdim=True) - logits.detach().mean(-1, keepdim=True), s


def _without_sum(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    c, s = RIGHT_TILT(logits, k)
    return c, s - s[..., :1]  # e^-s is another gauge, so that a forgotten Σ s would show


RIGHT_TILT = k_subset._tilt


def test_the_gauge_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any c and s give the same A. A normalizer that forgets Σ s or k c is not free of them."""
    logits = torch.randn(6, generator=Generator().manual_seed(0), dtype=torch.float64)
    right = sp.KSubset(logits, 3).log_normalizer(logits=logits)
    means = sp.KSubset(logits, 3).mean
    for tilt in (_attached_tilt, _without_sum):
        monkeypatch.setattr(k_subset, "_tilt", tilt)
        torch.testing.assert_close(sp.KSubset(logits, 3).log_normalizer(logits=logits), right, **EXACT)
        torch.testing.assert_close(sp.KSubset(logits, 3).mean, means, **EXACT)


SIMPLE = {  # seed: 1 - cos of the straight-through mean and the gradient, published as a figure, computed here exactly
    1234: 0.0381, 1067: 0.0200, 9198: 0.0122, 9453: 0.0517, 6240: 0.0526,
    7044: 0.0145, 1755: 0.0328, 7898: 0.0210, 3131: 0.0503, 1277: 0.0754,
}  # fmt: skip


def test_published_toy() -> None:
    """E‖x - b‖² over 5 of 10 items, of the code published with SIMPLE and with SFESS."""
    found = {}
    for seed in SIMPLE:
        random = np.random.RandomState(seed)
        logits = torch.tensor(random.randn(10), requires_grad=True)
        b = torch.tensor(np.abs(random.randn(10)))
        dist = sp.KSubset(logits, 5)
        (exact,) = torch.autograd.grad(sp.expect(lambda x: (x - b).square().sum(-1), dist, sp.Enumerate()), logits)  # noqa: B023
        variables = recognize(dist)
        assert isinstance(variables, sp.families.LogLinears)
        support = dist.enumerate_support()
        slopes = (dist.log_prob(support).exp().unsqueeze(-1) * 2 * (support - b)).sum(0).detach()
        mean = variables.through_mean(
            slopes
        )  # linear in the slopes, so this is the mean of the straight-through gradient
        found[seed] = 1 - float(torch.cosine_similarity(mean, exact, 0))
        if seed == 1234:
            assert f"{float(exact.norm()):.5f}" == "0.91968"
    assert found == pytest.approx(SIMPLE, abs=6e-5)  # half a digit, and what was rounded before
    assert f"{found[1234]:.5f}" == "0.03805"
    assert round(sum(found.values()) / len(found), 4) == 0.0368


@pytest.mark.parametrize("k", [-1, 4, 1.0, True])
def test_impossible_k_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match=r"KSubset needs k from 0 to the number of items.*; got k="):
        sp.KSubset(torch.zeros(3), k)


def test_logits_of_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"KSubset needs floating-point logits; got torch\.int64"):
        sp.KSubset(torch.zeros(3, dtype=torch.int64), 1)


@pytest.mark.parametrize(
    "estimator", [sp.DisARM(), sp.LocalExpectation(), sp.REBAR(), sp.CARMS(), sp.GumbelSoftmax()], ids=str
)
def test_other_estimators_say_what_works(estimator: sp.Estimator[Any, Any]) -> None:
    refusal = estimator.refusal(sp.KSubset(torch.zeros(3), 1))
    assert refusal is not None
    for name in ("got KSubset", "ScoreFunction", "DoubleCV", "StraightThrough"):
        assert name in refusal
