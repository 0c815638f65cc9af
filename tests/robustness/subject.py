"""An estimator of the register with the random variable on which it is tried, and the comparisons that decide."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor

import sampleprop as sp
from kinds import BITS, CLASSES, INTEGERS, KINDS, ONE_HOTS, STRUCTURES, Kind, cost, takes
from sampleprop import families, noise
from variants import CONFIGURATIONS

BATCH = 5
ROWS = 20_000
Z = 6.5  # two-sided 8e-11: with 10,000 comparisons a false alarm once in a million runs
F = Callable[[Tensor], Any]


class Outcome(NamedTuple):
    """One estimate."""

    value: Tensor  # [*batch]
    by_phi: Tensor  # [*batch, ...]
    by_theta: Tensor  # [2]


@dataclass(frozen=True)
class Subject:
    """The first variant of an estimator, on the first kind of variable that it takes or on a structure."""

    estimator: sp.Estimator[Any, Any]
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name}, {self.kind}" if self.structured else self.name

    @property
    def name(self) -> str:
        return self.estimator.name

    @property
    def structured(self) -> bool:
        return self.kind in STRUCTURES

    @cached_property
    def event_ndim(self) -> int:
        """The number of dimensions of an event."""
        return len(self.kind.dist(self.kind.phi(2)).event_shape)

    @property
    def black_box(self) -> bool:
        return self.estimator.needs == "black box"

    @property
    def attached(self) -> bool:
        """Whether the points carry a path to φ."""
        return bool(self.estimator.propose(self.kind.dist(self.kind.phi(2))).points.requires_grad)

    def on(self, *kinds: Kind) -> list[Subject]:
        """The same estimator on each of these kinds that it takes; on a structure it is tried on that alone."""
        return (
            [] if self.structured else [Subject(self.estimator, kind) for kind in kinds if takes(self.estimator, kind)]
        )

    def logits(self) -> list[Subject]:
        """The same estimator on every kind with logits; on a structure that alone."""
        return [self] if self.structured else self.on(BITS, CLASSES, ONE_HOTS, INTEGERS)

    def several(self) -> Subject | None:
        """With more samples, of which some can be lost; None where their number is not an argument."""
        if "samples" not in vars(self.estimator):
            return None
        several = copy.deepcopy(self.estimator)
        several.samples = 4 * several.samples_step
        return Subject(several, self.kind)

    def f(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """The cost that all conditions vary."""
        event_ndim = self.event_ndim
        return lambda x: cost(x, weights, event_ndim)

    def value(self, phi: Tensor, f: F, seed: int = 0, **arguments: Any) -> Tensor:
        """[*batch], with the noise of the seed."""
        return sp.expect(f, self.kind.dist(phi), self.estimator, generator=Generator().manual_seed(seed), **arguments)

    def run(
        self, phi: Tensor | None = None, f: F | None = None, weights: Tensor | None = None, **arguments: Any
    ) -> Outcome:
        """One estimate with its gradients; `cost` unless there is another f."""
        phi = self.kind.phi(BATCH) if phi is None else phi
        weights = theta(phi.dtype) if weights is None else weights
        value = self.value(phi, self.f(weights) if f is None else f, **arguments)
        return Outcome(value.detach(), *gradients(value, phi, weights))

    def exact(self, phi: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """The estimator's objective, [*batch], by summing over all possible states; differentiable."""
        dist = (self.kind.law or self.kind.dist)(phi)
        variables = families.recognize(dist)
        assert isinstance(variables, families.Enumerable)
        states = variables.support()
        states = states.reshape(-1, *(1,) * len(variables.batch_shape), *states.shape[1:])
        states = states.expand(-1, *variables.batch_shape, *states.shape[1 + len(variables.batch_shape) :])
        with torch.no_grad():
            possible = variables.log_prob(states).flatten(1).isfinite().all(1)
        states = states[possible]
        log_p, costs = variables.log_prob(states), f(states)
        if self.estimator.objective == "mean":
            return (log_p.exp() * costs).sum(0)
        terms, joint = costs - log_p, log_p.exp()
        if self.estimator.objective == "elbo":
            return (joint * terms).sum(0)
        bound, probs = terms, joint
        for _ in range(self.estimator.draws - 1):
            bound = torch.logaddexp(bound.unsqueeze(1), terms).flatten(0, 1)
            joint = (joint.unsqueeze(1) * probs).flatten(0, 1)
        return (joint * (bound - torch.tensor(float(self.estimator.draws), dtype=bound.dtype).log())).sum(0)

    def agrees_with_exact(
        self,
        phi: Tensor,
        f: Callable[[Tensor, Tensor], Tensor] | None = None,
        fault: Callable[[Callable[[Tensor], Tensor]], F] = lambda f: f,
        **arguments: Any,
    ) -> None:
        """Value and gradient of one problem [...] against the sum over all states, |z| < `Z` over `ROWS` replicates.

        Args:
            phi: one problem's parameters, float64.
            f: from points and φ (each row its own) to costs; `cost` if None.
            fault: what happens to the f that the estimator sees.
            arguments: for `expect`.
        """
        weights = theta(torch.float64)
        plain = self.f(weights)
        f = (lambda x, phi: plain(x)) if f is None else f
        one = phi.detach().unsqueeze(0).clone().requires_grad_()
        value = self.exact(one, lambda x: f(x, one))
        by_phi, by_theta = gradients(value, one, weights)
        rows = phi.detach().expand(ROWS, *phi.shape).clone().requires_grad_()
        estimate = self.value(rows, fault(lambda x: f(x, rows)), **arguments)
        found, found_theta = gradients(estimate, rows, weights)
        close_in_mean(estimate.detach(), value.detach()[0])
        close_in_mean(found, by_phi[0])
        torch.testing.assert_close(found_theta / ROWS, by_theta, rtol=0.2, atol=0.1)


def gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of the summed value, zero where it does not depend; the graph stays."""
    return torch.autograd.grad(value.sum(), leaves, materialize_grads=True, retain_graph=True)


def close_in_mean(found: Tensor, exact: Tensor) -> None:
    """The mean of [rows, ...] is `exact`, by a z-test of each coordinate; exactly, where nothing varies."""
    error, scale = found.mean(0) - exact, found.std(0) / len(found) ** 0.5
    largest = (error.abs() - 1e-9) / scale.clamp_min(1e-12)
    assert largest.max() < Z, f"|z| = {largest.max():.1f}: mean {found.mean(0).tolist()}, exact {exact.tolist()}"


def same(one: Sequence[Tensor], other: Sequence[Tensor], rtol: float | None = None, atol: float | None = None) -> None:
    """Two outcomes are equal, up to rounding unless a tolerance says otherwise."""
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, check_dtype=False, rtol=rtol, atol=atol)


def theta(dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf θ, in float32 at least."""
    return torch.tensor([1.1, 0.6], dtype=noise.working_dtype(dtype), requires_grad=True)


@contextmanager
def coarse_noise() -> Iterator[None]:
    """Float64 estimates draw the numbers that float32 ones draw."""
    fractions, normal = noise.fractions, noise.normal

    def coarse_fractions(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
        return fractions(shape, like.float(), generator).to(noise.working_dtype(like.dtype))

    def coarse_normal(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
        return normal(shape, like.float(), generator).to(noise.working_dtype(like.dtype))

    noise.fractions, noise.normal = coarse_fractions, coarse_normal
    try:
        yield
    finally:
        noise.fractions, noise.normal = fractions, normal


@contextmanager
def unchecked() -> Iterator[None]:
    """torch checks the categorical inside of a one-hot even where told not to, and fails on an empty one."""
    before = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        # Once imported, torch.compile wants them off for good: it cannot trace them.
        td.Distribution.set_default_validate_args(before and "torch._dynamo" not in sys.modules)


def subjects() -> list[Subject]:
    """Every estimator of the register, and those that take structures once more on one of these, each in its turn."""
    variants = [copy.deepcopy(CONFIGURATIONS[estimator][0]).train() for estimator in sp.REGISTER]
    first = [Subject(variant, next(kind for kind in KINDS if takes(variant, kind))) for variant in variants]
    chosen: list[Kind] = []
    structured = []
    for variant in variants:
        if fitting := [kind for kind in STRUCTURES if takes(variant, kind)]:
            chosen.append(min(fitting, key=chosen.count))
            structured.append(Subject(variant, chosen[-1]))
    return first + structured
