"""Baselines where costs are left out, and what they are attached to."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import sampleprop as sp
from sampleprop.costs import Costs
from sampleprop.estimators.score.score_function import Draw
from sampleprop.families import Variables, recognize

PHI = torch.tensor([[0.3, -0.6], [1.0, 0.2]], dtype=torch.float64)
KEEP = torch.tensor([[True, True], [True, True], [False, False], [True, True]])


def bits(phi: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=phi), 1)


def normals(phi: Tensor) -> Distribution:
    return Independent(Normal(phi, 1.0), 1)


def started(baseline: sp.Baseline) -> sp.Baseline:
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter.fill_(0.4)
    return baseline.double()


BASELINES = [
    sp.Constant(1.5),
    sp.LeaveOneOut(),
    sp.OptimalCoefficient(),
    sp.MovingAverage(0.4),
    started(sp.LearnedBaseline(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0)))),
    sp.SelfCritical(),
    sp.KnownMean(lambda x: x.sum(-1), lambda dist: dist.mean.sum(-1)),
]


@pytest.mark.parametrize("make", [bits, normals])
@pytest.mark.parametrize("baseline", BASELINES, ids=str)
def test_to_leave_a_sample_out_is_to_draw_one_less(
    make: Callable[[Tensor], Distribution], baseline: sp.Baseline
) -> None:
    """The value, the gradients for φ and θ, and that of the baseline's own loss."""
    points = make(PHI).sample(torch.Size((4,)))
    context = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    results = []
    for kept, keep in ((slice(None), KEEP), (KEEP[:, 0], None)):
        phi = PHI.clone().requires_grad_()
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        estimator = sp.ScoreFunction(len(points[kept]), baseline=copy.deepcopy(baseline)).train()
        draw = Draw(points[kept], make(phi).mode.unsqueeze(0) if baseline.probe_count else None)
        costs = (theta * draw.points.sum(-1) - 0.2).square()
        if keep is not None:
            costs = torch.where(keep, costs, 0.0)
        probe_costs = None if draw.probes is None else (theta * draw.probes.sum(-1) - 0.2).square()
        value = estimator.combine(make(phi), draw, costs, probe_costs=probe_costs, context=context, keep=keep)
        value.sum().backward()
        results.append((value, phi.grad, theta.grad, *(p.grad for p in estimator.parameters() if p.grad is not None)))
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [bits, normals])
@pytest.mark.parametrize("baseline", [b for b in BASELINES if b.learned], ids=str)
def test_the_gradient_does_not_depend_on_the_parameters_of_the_baseline(
    make: Callable[[Tensor], Distribution], baseline: sp.Baseline
) -> None:
    """Its mean does not, so a loss made of the gradient must not train the baseline either."""
    phi = PHI.clone().requires_grad_()
    points = make(PHI).sample(torch.Size((2,)))
    estimator = sp.ScoreFunction(2, baseline=baseline).eval()
    value = estimator.combine(make(phi), Draw(points), points.sum(-1), context=PHI.new_ones(2, 3))
    (gradient,) = torch.autograd.grad(value.sum(), phi, create_graph=True)
    further = torch.autograd.grad(gradient.sum(), list(estimator.parameters()), allow_unused=True)
    assert all(one is None or not one.any() for one in further)


def test_a_self_critical_baseline_needs_the_probe_of_its_own_draw() -> None:
    points = bits(PHI).sample(torch.Size((1,)))
    estimator = sp.ScoreFunction(1, baseline=sp.SelfCritical())
    with pytest.raises(
        ValueError, match=r"SelfCritical needs the cost of the greedy point; got none. Pass probe_costs="
    ):
        estimator.combine(bits(PHI), Draw(points), points.sum(-1))


class Noting(sp.Baseline):
    """Keeps the costs that it is given."""

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        self.costs = costs
        return torch.zeros_like(costs.points)


def test_a_baseline_is_given_costs_without_graph() -> None:
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    baseline = Noting()
    value = sp.expect(lambda x: theta * x.sum(-1), bits(PHI), sp.ScoreFunction(2, baseline=baseline))
    assert value.requires_grad
    assert not baseline.costs.points.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_a_learned_baseline_learns_in_training_mode_and_nothing_before_it(training: bool) -> None:
    context = PHI.new_ones(2, 3).requires_grad_()
    baseline = copy.deepcopy(next(b for b in BASELINES if isinstance(b, sp.LearnedBaseline)))
    estimator = sp.ScoreFunction(2, baseline=baseline).train(training)
    phi = PHI.clone().requires_grad_()
    sp.expect(lambda x: x.sum(-1), bits(phi), estimator, context=context).sum().backward()
    assert phi.grad is not None
    assert context.grad is None
    assert all((parameter.grad is not None) == training for parameter in baseline.parameters())


def test_the_only_cost_that_is_left_has_no_coefficient() -> None:
    keep = torch.tensor([[True, True], [False, True]])
    costs = Costs(torch.where(keep, torch.ones(2, 2, dtype=torch.float64), 0.0), keep=keep)
    found = sp.OptimalCoefficient().value(recognize(bits(PHI)), bits(PHI).sample(torch.Size((2,))), costs)
    assert found[0, 0] == 0
    torch.testing.assert_close(found[:, 1], torch.ones(2, dtype=torch.float64))
