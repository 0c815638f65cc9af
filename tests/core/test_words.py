"""What messages say to those who meet them most: each names the way out, and the way out works."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
)
from torch.distributions.transforms import Transform

import sampleprop as sp


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_an_f_of_several_outputs_is_told_how_to_get_each_gradient(batch: tuple[int, ...]) -> None:
    weights = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)
    loc = torch.zeros(*batch, 4, dtype=torch.float64, requires_grad=True)
    q = Independent(Normal(loc, 1.0), 1)
    f = lambda y: y @ weights  # noqa: E731  [..., 4] -> [..., 5]
    rows = ", ".join(map(str, (5, *batch)))
    order = ".movedim(-1, 1)" if batch else ""
    advice = f"dist.expand([{rows}]), and return cost.diagonal(dim1=1, dim2=-1){order}."
    with pytest.raises(ValueError, match=re.escape(advice)):
        sp.expect(f, q, sp.Pathwise(2))
    diagonal = lambda y: f(y).diagonal(dim1=1, dim2=-1)  # noqa: E731
    told = (lambda y: diagonal(y).movedim(-1, 1)) if batch else diagonal
    outputs = sp.expect(told, q.expand((5, *batch)), sp.Pathwise(2))
    assert outputs.shape == (5, *batch)
    for i in range(5):
        (gradient,) = torch.autograd.grad(outputs[i].sum(), loc, retain_graph=True)
        torch.testing.assert_close(gradient, weights[:, i].expand(*batch, 4))


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((-1,), "the last batch dimension of the distribution holds parts of one draw"),
        ((-1, -2), "the last 2 batch dimensions hold parts of one draw"),
    ],
)
@pytest.mark.parametrize("estimator", [sp.REBAR(), sp.ScoreFunction(3), sp.DisARM()], ids=repr)
def test_a_cost_whose_shape_is_a_prefix_names_independent(estimator: Any, dims: tuple[int, ...], words: str) -> None:
    q = Bernoulli(logits=torch.zeros(32, 10, requires_grad=True))
    with pytest.raises(ValueError, match=words) as caught:
        sp.expect(lambda x: x.sum(dims), q, estimator)
    assert f"torch.distributions.Independent(q, {len(dims)})" in str(caught.value)
    assert sp.expect(lambda x: x.sum(dims), Independent(q, len(dims)), estimator).shape == (32, 10)[: 2 - len(dims)]


@pytest.mark.parametrize("estimator", [sp.DisARM(), sp.REBAR(), sp.StraightThrough(), sp.Enumerate()], ids=repr)
def test_spins_are_told_to_be_mapped_inside_f(estimator: Any) -> None:
    spins = TransformedDistribution(
        Bernoulli(logits=torch.zeros(3, requires_grad=True)), [AffineTransform(-1.0, 2.0)], validate_args=False
    )
    with pytest.raises(TypeError, match=r"Give it the Bernoulli inside, and map its samples inside f: f\(2 \* b - 1\)"):
        sp.expect(lambda x: x, spins, estimator)


class Cached(Transform):
    """A flow without an inverse, which finds what it was computed from by the object."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Tensor] = {}

    def _call(self, x: Tensor) -> Tensor:
        y = x + x**3
        self.kept[id(y)] = x
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return self.kept[id(y)]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (1 + 3 * x.square()).log()


def test_a_flow_that_scores_its_own_samples_only_is_told_so() -> None:
    flow = TransformedDistribution(Normal(torch.zeros(3, requires_grad=True), 1.0), [Cached()], validate_args=False)
    with pytest.raises(RuntimeError, match=r"needs a log_prob for any points; it looked .* up in a cache"):
        sp.expect(lambda x: x.square(), flow, sp.ScoreFunction(2))


def test_measure_valued_says_what_fifty_thousand_classes_cost() -> None:
    q = Categorical(logits=torch.zeros(50_000, requires_grad=True))
    with pytest.warns(UserWarning, match=r"MeasureValued evaluates f 50000 times for one estimate .* ScoreFunction"):
        sp.MeasureValued().propose(q)
    sp.MeasureValued().propose(Categorical(logits=torch.zeros(500, requires_grad=True)))  # says nothing
