"""Every estimator at the edges: masked, saturated and certain outcomes, costs that are not finite, and what f may
do."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor

import sampleprop as sp
from contract.cases import BATCH, CASES, DETACHED, EACH, over, tell
from kinds import BITS, CLASSES, INTEGERS, ONE_BIT, ONE_HOTS, Kind, cost, estimate, gradients, theta

INF = math.inf
# Logits, and the value of each masked coordinate (NaN where it is free).
MASKED = {
    BITS: ([INF, 0.3, -INF], [1.0, math.nan, 0.0]),
    CLASSES: ([-INF, 0.2, -INF, 0.5], [0.0, math.nan, 0.0, math.nan]),
    ONE_HOTS: ([[-INF, 0.2, 0.5], [-INF, 0.1, -INF]], [[0.0, math.nan, math.nan], [0.0, 1.0, 0.0]]),
}
WITH_MASKS = [(variant, kind) for variant, kind in CASES if kind in MASKED]


@over(WITH_MASKS)
def test_impossible_outcomes_are_never_shown_to_f(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    logits, fixed = (torch.tensor(numbers) for numbers in MASKED[kind])
    phi = logits.expand(BATCH, *logits.shape).clone().requires_grad_()
    masked = ~fixed.isnan()
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach()[..., masked])
        return cost(x, theta(), len(kind.shape))

    value = sp.expect(f, kind.dist(phi), variant)
    (gradient,) = gradients(value, phi)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    for points in seen:
        assert torch.equal(points, fixed[masked].expand_as(points))


@over([(variant, kind) for variant, kind in CASES if kind is INTEGERS])
def test_impossible_integers_are_never_shown_to_f(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    logits = torch.tensor([[-INF, 0.2, 0.5], [-INF, 0.1, -INF]])
    phi = logits.expand(BATCH, 2, 3).clone().requires_grad_()
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x)
        return cost(x, theta(), 1)

    value = sp.expect(f, kind.dist(phi), variant)
    (gradient,) = gradients(value, phi)
    assert gradient.isfinite().all()
    assert gradient[:, logits.isinf()].abs().max() == 0
    for points in seen:
        assert (points[..., 0] > 0).all()
        assert (points[..., 1] == 1).all()


SATURATED = [(variant, kind) for variant, kind in CASES if kind in (BITS, ONE_BIT, CLASSES, ONE_HOTS, INTEGERS)]


@pytest.mark.parametrize("size", [20.0, 1e4])
@over(SATURATED)
def test_saturated_logits_stay_finite(variant: sp.Estimator[Any, Any], kind: Kind, size: float) -> None:
    signs = torch.randn(64, *kind.shape, generator=Generator().manual_seed(2)).sign()
    phi, weights = (size * signs).requires_grad_(), theta()
    value = estimate(variant, kind, phi, weights)
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(value, phi, weights))


BY_PROBS: dict[Kind, Callable[[Tensor], td.Distribution]] = {
    BITS: lambda probs: td.Independent(td.Bernoulli(probs=probs), 1),
    CLASSES: lambda probs: td.OneHotCategorical(probs=probs),
    INTEGERS: lambda probs: td.Independent(td.Categorical(probs=probs), 1),
}
CERTAIN = {BITS: [0.0, 1.0, 0.5], CLASSES: [0.0, 0.5, 0.0, 0.5], INTEGERS: [[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]}
WITH_PROBS = [(variant, kind) for variant, kind in CASES if kind in BY_PROBS]


@over(WITH_PROBS)
def test_certain_probabilities_without_gradient(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    probs = torch.tensor(CERTAIN[kind])
    dist = BY_PROBS[kind](probs.expand(BATCH, *probs.shape))
    weights = theta()
    value = sp.expect(lambda x: cost(x, weights, len(dist.event_shape)), dist, variant)
    (gradient,) = gradients(value, weights)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (lambda costs: costs.mean(0), "nothing is broadcast"),
        (lambda costs: torch.stack([costs] * 9, -1), "Sum the dimensions after the batch"),
    ],
    ids=["reduced over the samples", "nine numbers for a point"],
)
def test_further_shapes_are_refused(change: Callable[[Tensor], Tensor], fix: str) -> None:
    """Those that the robustness matrix tries with every estimator are left out."""
    with pytest.raises(ValueError, match=rf"ScoreFunction needs one cost for each point.*{fix}"):
        sp.expect(lambda x: change(x.sum(-1)), BITS.dist(BITS.phi(67)), sp.ScoreFunction(2))


def test_costs_with_the_event_left_are_refused() -> None:
    dist = BITS.dist(BITS.phi(BATCH))
    with pytest.raises(ValueError, match=r"Sum the cost over the event: return cost\.sum\(\[-1\]\)"):
        sp.expect(lambda x: x, dist, sp.ScoreFunction())


@over(EACH)
def test_a_draw_for_another_shape_is_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    draw = variant.propose(kind.dist(kind.phi(BATCH)))
    with pytest.raises(ValueError, match=f"{variant.name} needs points .* Combine with a distribution of the shape"):
        tell(variant, kind, kind.phi(BATCH + 1), draw)


def _spoiled(costs: Tensor, spoil: float) -> Tensor:
    """Row 2 of the first sample is not finite."""
    where = torch.zeros_like(costs, dtype=torch.bool)
    where[0, 2] = True
    return torch.where(where, spoil, costs)


@over(DETACHED)
def test_nonfinite_costs_stay_in_their_row(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    event_ndim = len(kind.dist(phi).event_shape)
    value = sp.expect(
        lambda x: _spoiled(cost(x, theta(), event_ndim), math.nan), kind.dist(phi), variant, nonfinite="propagate"
    )
    (gradient,) = gradients(value, phi)
    others = torch.arange(BATCH) != 2
    assert value[2].isnan()
    assert value[others].isfinite().all()
    assert gradient[others].isfinite().all()


@over([(variant, kind) for variant, kind in EACH if not variant.can_drop])
def test_costs_that_cannot_be_dropped_are_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """Where x decides which costs are lost, the estimate of E[f | f is finite] would be wrong."""
    with pytest.raises(ValueError, match=f"{variant.name} needs every cost: where x decides which costs are lost"):
        estimate(variant, kind, kind.phi(BATCH), theta(), nonfinite="drop")


@over([(variant, kind) for variant, kind in CASES if variant.can_drop])
def test_dropped_costs_do_not_count(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """Whatever stood in the place of the cost, the result is the same and finite. (That it is right is tested with
    exact numbers in tests/estimators/score/test_finite_part.py.)"""
    several = copy.deepcopy(variant)
    if "samples" in vars(several):
        several.samples = 8
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    results = []
    for spoil in (math.nan, INF):
        first = True

        def f(x: Tensor) -> Tensor:
            nonlocal first
            costs = cost(x, theta(), len(dist.event_shape))
            costs, first = (_spoiled(costs, spoil) if first else costs), False  # noqa: B023  called in this round
            return costs

        value = sp.expect(f, dist, several, nonfinite="drop", generator=Generator().manual_seed(0))
        results.append((value, *torch.autograd.grad(value.sum(), phi, retain_graph=True)))
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


BLACK_BOX = [(variant, kind) for variant, kind in CASES if variant.needs == "black box"]


@over(BLACK_BOX)
def test_f_outside_torch(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    event = tuple(range(-len(dist.event_shape), 0))
    value = sp.expect(lambda x: (x.numpy() ** 2).sum(event) if event else x.numpy() ** 2, dist, variant)
    (gradient,) = gradients(value, phi)
    assert value.shape == (BATCH,)
    assert gradient.isfinite().all()


@over([case for case in BLACK_BOX if case[0].objective == "mean"])
def test_f_that_ignores_x(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    value = sp.expect(lambda x: weights.sum().expand(x.shape[0], BATCH), kind.dist(phi), variant)
    by_phi, by_theta = gradients(value, phi, weights)
    torch.testing.assert_close(value.sum(), BATCH * weights.sum())
    torch.testing.assert_close(by_theta, torch.full((2,), float(BATCH)))
    assert by_phi.isfinite().all()


@over([(v, kind) for v, kind in EACH if hasattr(v, "allow_unused") and v.objective == "mean"])
def test_f_with_no_path_to_x_is_allowed_when_told(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    told, phi, weights = copy.deepcopy(variant), kind.phi(BATCH), theta()
    told.allow_unused = True
    value = sp.expect(lambda x: weights.sum().expand(x.shape[0], BATCH), kind.dist(phi), told)
    by_phi, by_theta = gradients(value, phi, weights)
    assert by_phi.abs().max() == 0
    torch.testing.assert_close(by_theta, torch.full((2,), float(BATCH)))
