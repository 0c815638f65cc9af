"""Random shapes, dtypes, masks and numbers of samples over the register.

A few examples at each run; `SAMPLEPROP_EXAMPLES=10000 pytest tests/core/test_hypothesis.py -n 0` looks for longer.
"""

from __future__ import annotations

import copy
import math
import os
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributions as td
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

import sampleprop as sp
from kinds import best
from robustness.subject import gradients, unchecked
from sampleprop import checks, noise
from variants import CONFIGURATIONS

EXAMPLES = max(1, int(os.environ.get("SAMPLEPROP_EXAMPLES", "200")) // len(sp.REGISTER))  # for each estimator
FAMILIES = ("Bernoulli", "OneHotCategorical", "Categorical", "Normal", "Gamma", "Poisson", "solver")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = st.sampled_from([2, 3, 1, 0])


class Problem(NamedTuple):
    """A random variable: a leaf φ and the family that it makes."""

    family: str
    # [*batch, *event] for bits and counts, [*batch, *event, C] for classes, [*batch, *event, 2] for the rest
    phi: Tensor
    event_ndim: int

    def dist(self, phi: Tensor) -> td.Distribution:
        """The distribution with these parameters."""
        made: td.Distribution
        if self.family in ("Normal", "Gamma"):
            first, second = phi.unbind(-1)
            made = td.Normal(first, second.exp()) if self.family == "Normal" else td.Gamma(first.exp(), second.exp())
        elif self.family == "solver":
            made = sp.PerturbAndMAP(phi, best)
        elif self.family == "Poisson":
            made = td.Poisson(phi.exp())
        else:
            made = getattr(td, self.family)(logits=phi)
        return td.Independent(made, self.event_ndim) if self.event_ndim else made


@st.composite
def problems(draw: st.DrawFn, family: str) -> Problem:
    """Any small shape, also an empty one; logits of any size, with masks that leave one class."""
    dtype = draw(st.sampled_from(DTYPES if family != "Gamma" else DTYPES[:2]))  # torch draws Gamma in full precision
    batch = draw(st.lists(SIZES, max_size=2))
    event = draw(st.lists(SIZES, max_size=2))
    last = {"Normal": [2], "Gamma": [2]}.get(family, [])
    if family in ("OneHotCategorical", "Categorical", "solver"):
        last = [draw(st.integers(1, 5))]
    seed, scale = draw(st.integers(0, 2**16)), draw(st.sampled_from([0.1, 1.0, 3.0]))
    generator = Generator().manual_seed(seed)
    phi = scale * torch.randn((*batch, *event, *last), generator=generator, dtype=torch.float64)
    if family in ("Normal", "Gamma", "Poisson"):
        phi = phi.clamp(-2, 2)
    if family in ("Bernoulli", "OneHotCategorical", "Categorical"):
        size = draw(st.sampled_from([1.0, 20.0, 1e4]))
        mask = torch.rand(phi.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
        if last:
            mask[..., int(torch.randint(last[0], (), generator=generator))] = False
        phi = (size * phi).clamp(-6e4, 6e4).masked_fill(mask, -math.inf)
    return Problem(family, phi.to(dtype).requires_grad_(), len(event))


def _takes(estimator: sp.Estimator[Any, Any], family: str) -> bool:
    phi = torch.zeros(2, 2, 2)
    return estimator.refusal(Problem(family, phi, 1).dist(phi)) is None


@st.composite
def examples(draw: st.DrawFn, kind: type[sp.Estimator[Any, Any]]) -> tuple[Problem, sp.Estimator[Any, Any]]:
    """Any variant with any family that it takes, and any number of samples that it can draw."""
    # A control variate of known mean is a function for one shape.
    free = [
        one for one in CONFIGURATIONS[kind] if not any(isinstance(module, sp.KnownMean) for module in one.modules())
    ]
    chosen = copy.deepcopy(draw(st.sampled_from(free)))
    problem = draw(problems(draw(st.sampled_from([family for family in FAMILIES if _takes(chosen, family)]))))
    if getattr(chosen, "samples", None) is not None:
        least, step = max(chosen.samples_least, _needed(chosen)), chosen.samples_step
        chosen.samples = least + step * draw(st.integers(0, 3))
    return problem, chosen.train(draw(st.booleans()))


def _needed(estimator: sp.Estimator[Any, Any]) -> int:
    """The samples that its baseline leaves out of."""
    others = (sp.LeaveOneOut, sp.OptimalCoefficient)
    return 2 if any(isinstance(module, others) for module in estimator.modules()) else 1


TAKERS = [kind for kind in sp.REGISTER if any(_takes(kind(), family) for family in FAMILIES)]  # all but for solvers


@pytest.mark.parametrize("kind", TAKERS, ids=lambda kind: kind.__name__)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 25)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_right_shapes_and_finite_numbers_or_a_refusal(
    kind: type[sp.Estimator[Any, Any]], data: st.DataObject, seed: int
) -> None:
    """A refusal names the estimator. Otherwise: shapes, dtypes, finite numbers, nothing for masked logits, the same
    result for the same noise, and each number affine in f."""
    problem, estimator = data.draw(examples(kind))
    with unchecked():
        dist = problem.dist(problem.phi)
        refusal = estimator.refusal(dist)
        if refusal is not None:
            assert refusal.startswith(f"{estimator.name} ")
            return
        first, second = (_run(problem, estimator, seed) for _ in range(2))
    value, by_phi, by_theta = first
    assert value.shape == dist.batch_shape
    assert value.dtype == noise.working_dtype(problem.phi.dtype)
    assert by_phi.shape == problem.phi.shape
    assert by_phi.dtype == problem.phi.dtype
    assert bool(value.isfinite().all()), value
    assert bool(by_phi.isfinite().all()), by_phi
    assert bool(by_theta.isfinite().all()), by_theta
    # ARM's gradient for a certain bit is noise of mean zero, as its page says; every other's is zero.
    assert isinstance(estimator, sp.ARM) or float(by_phi[problem.phi.isneginf()].abs().sum()) == 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    if estimator.objective == "mean" and not isinstance(estimator, sp.IMLE):  # which solves with a part of f
        with unchecked():
            twice, thrice = (_run(problem, estimator, seed, factor) for factor in (2.0, 3.0))
        # In half precision two terms of a score may cancel; how well those gradients agree, the robustness matrix says.
        full = [found for found in zip(first, twice, thrice, strict=True) if found[0].dtype.itemsize > 2]
        for one, two, three in full:
            # The square root: a regression on few samples (OptimalCoefficient) loses half of the digits.
            unit = math.sqrt(torch.finfo(one.dtype).eps) * float(1 + three.abs().sum())
            torch.testing.assert_close(one + three, 2 * two, rtol=0, atol=unit)


def _run(problem: Problem, estimator: sp.Estimator[Any, Any], seed: int, factor: float = 1.0) -> tuple[Tensor, ...]:
    weights = torch.tensor([1.1, 0.6], dtype=noise.working_dtype(problem.phi.dtype), requires_grad=True)
    dist = problem.dist(problem.phi)
    event_ndim = len(dist.event_shape)

    def f(x: Tensor) -> Tensor:
        y = x.to(weights.dtype).unsqueeze(-1).flatten(x.dim() - event_ndim)  # [k, *batch, coordinates]
        tilt = torch.linspace(-0.7, 1.0, y.shape[-1], dtype=y.dtype)
        return factor * (2 + (weights[0] * (y * tilt).sum(-1)).sin() + weights[1] * y.square().sum(-1))

    value = sp.expect(f, dist, estimator, generator=Generator().manual_seed(seed))
    return value.detach(), *gradients(value, problem.phi, weights)


SMOOTH = (torch.tanh, torch.square, torch.neg, torch.sigmoid)
STEPS = (torch.round, torch.sign, torch.floor, torch.trunc, lambda x: x // 1, lambda x: x.clone().gt_(0.0))
JOINED = (torch.add, torch.mul, torch.maximum, torch.atan2)


class Traced(NamedTuple):
    """A tensor, and what is known of how it came from the points."""

    value: Tensor
    path: bool  # whether autograd leads back to the points
    step: bool  # whether it does so across a step


@st.composite
def costs(draw: st.DrawFn) -> tuple[Traced, Tensor]:
    """Costs made of points and of θ by random operations, and the points."""
    phi, theta = (torch.linspace(-1.3, 1.1, 6, requires_grad=True) for _ in range(2))
    points = phi * 1.0
    made = [Traced(points, True, False), Traced(theta, False, False)]
    for kind in draw(
        st.lists(st.sampled_from(["smooth", "smooth", "joined", "joined", "step", "detached"]), max_size=12)
    ):
        one = draw(st.sampled_from(made))
        if kind == "joined":
            two = draw(st.sampled_from(made))
            value = draw(st.sampled_from(JOINED))(one.value, two.value)
            made.append(Traced(value, one.path or two.path, one.step or two.step))
        elif kind == "detached":
            made.append(Traced(one.value.detach(), False, False))
        else:
            value = draw(st.sampled_from(SMOOTH if kind == "smooth" else STEPS))(one.value)
            made.append(Traced(value, one.path, one.step or (one.path and kind == "step")))
    parts = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
    total = torch.stack([part.value for part in parts]).sum(0)
    return Traced(total, any(part.path for part in parts), any(part.step for part in parts)), points


@settings(max_examples=EXAMPLES * 20, deadline=None, derandomize=EXAMPLES < 25)
@given(costs())
def test_a_path_is_one_that_no_step_crosses(made: tuple[Traced, Tensor]) -> None:
    """No path; a path across a step, wherever it is and whatever lies beside it; or nothing in the way."""
    (value, path, step), points = made
    obstacle = checks.obstacle(value, points)
    if step:
        assert obstacle is not None
        assert obstacle.startswith("a path that passes ")
    else:
        assert obstacle == (None if path else "no path to them")
