"""LocalExpectation: exact moments by enumeration of the pivots, so no test here can raise a false alarm."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical
from torch.utils._python_dispatch import TorchDispatchMode

import sampleprop as sp
from estimators.score.moments import exact
from sampleprop import families
from sampleprop.estimators.exact import changes
from sampleprop.estimators.exact.local_expectation import Draw, LocalExpectation


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def onehots(logits: Tensor) -> Independent:
    return Independent(OneHotCategorical(logits=logits), 1)


def integers(logits: Tensor) -> Independent:
    return Independent(Categorical(logits=logits), 1)


def wave(x: Tensor) -> Tensor:
    """[k, *batch, *event] -> [k, *batch] for one batch dimension: coupled, with an offset."""
    weights = torch.linspace(-1.0, 2.0, math.prod(x.shape[2:]), dtype=torch.float64)
    x = x.double().flatten(2)
    return 2 + (x * weights).sum(-1).sin() + 0.5 * x[..., 0] * x[..., -1]


LOGITS = {
    "bits": (bits, torch.tensor([0.4, -0.9, 1.3, 5.0], dtype=torch.float64)),
    "one-hots": (onehots, torch.tensor([[0.3, -1.0, 0.5], [1.2, -math.inf, -0.2]], dtype=torch.float64)),
    "integers": (integers, torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.2]], dtype=torch.float64)),
}


def every_pivot(make, logits, f):
    """Value and gradient for each pivot, with its probability: [states], [states, ...], [states]."""
    variables = families.recognize(make(logits))
    states = variables.support()
    probability = variables.log_prob(states).exp()
    states, probability = states[probability > 0], probability[probability > 0]
    phi = logits.expand(len(states), *logits.shape).clone().requires_grad_()
    dist = make(phi)
    points = states.unsqueeze(0)
    draw = Draw(points, changed(families.recognize(dist), points))
    value = sp.LocalExpectation().combine(dist, draw, f(points), probe_costs=f(draw.probes))
    value.sum().backward()
    return value.detach(), phi.grad, probability


def changed(variables, points):
    """The points with one variable changed at a time."""
    every = changes.all_changed(variables, points)
    return changes.one_at_a_time(points, every, changes.sites(variables), len(variables.batch_shape))


@pytest.mark.parametrize("kind", LOGITS)
def test_the_mean_over_all_pivots_is_exact(kind):
    make, logits = LOGITS[kind]
    values, gradients, probability = every_pivot(make, logits, wave)
    value, gradient = exact(make, logits, wave)
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(torch.tensordot(probability, gradients, 1), gradient)


@pytest.mark.parametrize("kind", LOGITS)
def test_an_additive_cost_leaves_no_noise(kind):
    make, logits = LOGITS[kind]

    def additive(x):
        weights = torch.linspace(-1.0, 2.0, math.prod(x.shape[2:]), dtype=torch.float64)
        return 3 + (x.double().flatten(2).square() * weights).sum(-1)

    _, gradients, _ = every_pivot(make, logits, additive)
    _, gradient = exact(make, logits, additive)
    torch.testing.assert_close(gradients, gradient.expand_as(gradients))


@pytest.mark.parametrize("kind", LOGITS)
def test_the_variance_is_below_that_of_the_score_function_with_the_exact_mean(kind):
    # By Rao and Blackwell, for each coordinate: it is the mean of that estimate given the other variables.
    make, logits = LOGITS[kind]
    _, gradients, probability = every_pivot(make, logits, wave)
    value, gradient = exact(make, logits, wave)
    mine = probability @ (gradients - gradient).square().flatten(1).sum(1)
    variables = families.recognize(make(logits))
    states = variables.support()
    p = variables.log_prob(states).exp()
    costs = wave(states.unsqueeze(1)).squeeze(1)
    terms = (costs - value).reshape(-1, *(1,) * logits.dim()) * variables.score(states)
    assert mine < p @ (terms - gradient).square().flatten(1).sum(1)


def test_each_pivot_is_changed_in_every_place_to_every_other_class():
    points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    dist = onehots(torch.zeros(2, 3, dtype=torch.float64))
    probes = changed(families.recognize(dist), points.unsqueeze(0))
    found = {tuple(x.argmax(-1).tolist()) for x in probes}
    assert len(probes) == 4
    assert found == {(1, 2), (2, 2), (0, 0), (0, 1)}


def test_impossible_changes_are_not_shown_to_f():
    logits = torch.tensor([math.inf, -math.inf, 1e4, 0.3], requires_grad=True)

    def f(x):
        impossible = (x[..., 0] == 0) | (x[..., 1] == 1) | (x[..., 2] == 0)
        return torch.where(impossible, math.inf, x[..., 3])

    sp.expect(f, bits(logits), sp.LocalExpectation()).backward()
    spread = torch.tensor(0.3).sigmoid() * torch.tensor(-0.3).sigmoid()
    torch.testing.assert_close(logits.grad, torch.tensor([0.0, 0.0, 0.0, spread]))


def test_masked_classes_are_not_shown_to_f():
    logits = torch.tensor([0.0, -math.inf, 1.0], requires_grad=True)
    q = OneHotCategorical(logits=logits)
    sp.expect(lambda x: torch.where(x[..., 1] > 0, math.inf, x[..., 2]), q, sp.LocalExpectation(3)).backward()
    p = torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(logits.grad, p * (1 - p) * torch.tensor([-1.0, 0.0, 1.0]))


def test_only_the_pivots_reach_theta():
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    dist = bits(torch.tensor([0.4, -0.9], dtype=torch.float64))
    estimator = sp.LocalExpectation(3)
    draw = estimator.propose(dist, generator=torch.Generator().manual_seed(1))
    f = lambda x: (theta * x).sum(-1).exp()  # noqa: E731
    estimator.combine(dist, draw, f(draw.points), probe_costs=f(draw.probes)).backward()
    total = draw.points.sum(-1)
    torch.testing.assert_close(theta.grad, (total * (theta.detach() * total).exp()).mean())


def test_the_costs_of_the_changes_are_asked_for():
    dist = bits(torch.zeros(2))
    draw = sp.LocalExpectation().propose(dist)
    with pytest.raises(ValueError, match=r"Pass probe_costs=f\(draw.probes\)"):
        sp.LocalExpectation().combine(dist, draw, draw.points.sum(-1))


@pytest.mark.parametrize("sites", [1, 5])
@pytest.mark.parametrize("samples", [1, 3])
def test_evaluations_are_counted(sites, samples):
    seen = []
    estimator = sp.LocalExpectation(samples)
    for make, logits in ((bits, torch.zeros(sites)), (onehots, torch.zeros(sites, 4))):
        seen.clear()
        sp.expect(lambda x: (seen.append(len(x)), x.flatten(1).sum(-1))[1], make(logits), estimator)
        assert sum(seen) == estimator.evaluations(make(logits))[0]


def test_a_budget_is_spent_on_pivots():
    dist = OneHotCategorical(logits=torch.zeros(5))
    assert sp.LocalExpectation().for_budget(dist, 11).evaluations(dist)[0] == 10


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize("estimator", [LocalExpectation(2), sp.MeasureValued(2)], ids=str)
def test_the_memory_for_integers_grows_as_the_number_of_classes(estimator: sp.Estimator[Any, Any]) -> None:
    """Not as its square, which no computer has for 50,000 classes."""
    logits = torch.zeros(3, 1000, requires_grad=True)
    with _Largest() as noted:
        sp.expect(lambda x: (x / 1000.0).square(), Categorical(logits=logits), estimator).sum().backward()
    assert noted.largest == 2 * 3 * 1000
