"""The reference for every bias: the exact gradient, or a long run of an unbiased estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Generator, Tensor

from sampleprop import families
from sampleprop.diagnostics.measuring.enumeration import ENUMERABLE, Enumeration
from sampleprop.diagnostics.measuring.replicates import Expectation, Measured, describe_error, place
from sampleprop.diagnostics.measuring.statistics import LEAST_GROUPS, NOTHING, Bias, Unseen, bias, signal
from sampleprop.diagnostics.measuring.tally import Moments, Tally
from sampleprop.estimator import Estimator, Objective
from sampleprop.estimators.multisample.importance_weighted import ImportanceWeighted
from sampleprop.estimators.multisample.vimco import VIMCO
from sampleprop.estimators.pathwise.pathwise import Pathwise
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.structured.perturbed_score import PerturbedScore

EXAMPLES = 3  # draws that tell which states an estimator evaluates by design, not by chance
LONG_RUN = 16  # evaluations of the long run for each evaluation of an estimator

M = TypeVar("M", bound=Moments, contravariant=True)
Exact = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Target(NamedTuple):
    """What is estimated. Two estimators can be compared where this is equal."""

    objective: Objective
    samples: int = 1  # K, on which "log-mean-exp" depends

    def __str__(self) -> str:
        return f"{self.objective}, K = {self.samples}" if self.objective == "log-mean-exp" else self.objective


MEAN = Target("mean")


def target(estimator: Estimator[Any, Any]) -> Target:
    """What an estimator estimates. The bound of one sample is the ELBO."""
    if estimator.objective == "log-mean-exp" and estimator.draws > 1:
        return Target("log-mean-exp", estimator.draws)
    return Target("elbo" if estimator.objective == "log-mean-exp" else estimator.objective)


def unbiased(expectation: Measured, wanted: Target, samples: int) -> tuple[Measured, Estimator[Any, Any]] | None:
    """An unbiased estimator of the target, and the expectation to give it; None where no estimator is known."""
    candidates: tuple[Estimator[Any, Any], ...] = (
        ScoreFunction(samples),
        Pathwise(samples),
        PerturbedScore(max(samples, 2)),
    )
    if wanted.objective == "log-mean-exp":
        candidates = (VIMCO(wanted.samples), ImportanceWeighted(wanted.samples))
    elif wanted.objective == "elbo":
        expectation = expectation.without_log_q()
        candidates = candidates[:1]
    for estimator in candidates:
        if estimator.refusal(expectation.dist) is None:
            return expectation, estimator
    return None


class Reference:
    """The exact gradient, or a long run of an unbiased estimator.

    Attributes:
        text: where the gradient comes from, in words.
    """

    def __init__(self, expectation: Measured, exact: Exact | None, generator: Generator, wanted: Target = MEAN) -> None:
        self._expectation = expectation
        self._gradient: Tensor | None = None
        self._enumeration: Enumeration | None = None
        self._tally: Tally | None = None
        self.text = f"none: no estimator that is unbiased for every f takes this distribution and objective ({wanted})"
        copied = expectation if isinstance(expectation, Expectation) else None
        if exact is not None:
            self._gradient = _flat(expectation, exact)
        variables = expectation.variables
        small = isinstance(variables, families.Enumerable) and variables.support_size <= ENUMERABLE
        if copied is not None and small and wanted.objective == "mean":
            self._enumerate(copied)
        if exact is not None:
            self.text = "the exact gradient that was given"
        if self._gradient is None:
            found = unbiased(expectation.together(), wanted, expectation.long_run)
            if found is not None:
                self._expectation, estimator = found
                self._tally = Tally(estimator, generator)

    def _enumerate(self, expectation: Expectation) -> None:
        """Find the exact gradient, unless f is random or raises an error at some state."""
        try:
            if not _repeatable(expectation):
                return
            self._enumeration = Enumeration(expectation)
        except Exception as error:
            if not place(error):
                raise
            return  # f's own error; a long run may never meet that state
        self.text = f"exact, by enumeration of {self._enumeration.states} states"
        if self._gradient is None:
            self._gradient = self._enumeration.gradient

    @property
    def exact(self) -> bool:
        """Whether the reference has no noise."""
        return self._gradient is not None

    @property
    def known(self) -> bool:
        """Whether a gradient is known. A long run in which every gradient was zero does not count."""
        return self.exact or (self._tally is not None and any(bool(mean.any()) for mean in self._tally.means))

    def round(self, evaluations: int) -> None:
        """Add a group to the long run, in proportion to `evaluations`; do nothing where the reference is exact."""
        if self._tally is None:
            return
        count = max(2, LONG_RUN * evaluations // self._tally.estimator.draws)
        estimator, generator = self._tally.estimator, self._tally.generator
        try:
            self._tally.add(self._expectation.estimates(estimator, count, generator))
        except Exception as error:
            if not place(error):
                raise
            # f's own error: other estimators may still be measured, without their bias.
            self._tally = None
            self.text = f"none: a long run of {estimator.label} failed: {describe_error(error)}"

    def means(self, groups: int) -> Tensor:
        """[groups, coordinates]."""
        if self._gradient is not None:
            return self._gradient.expand(groups, -1)
        assert self._tally is not None
        return torch.stack(self._tally.means[:groups])

    def values(self, groups: int) -> Tensor | None:
        """[groups], the value of the expectation summed over the batch; None where it is not known."""
        if self._tally is not None:
            return torch.tensor(self._tally.values[:groups], dtype=torch.float64)
        if self._enumeration is None:
            return None
        return torch.full((groups,), float(self._enumeration.value.sum()), dtype=torch.float64)

    def length(self) -> float | None:
        """The length of the gradient, or None where it is not known."""
        if self._gradient is not None:
            return float(self._gradient.norm())
        if self._tally is None or len(self._tally.means) < 2:
            return None
        return signal(torch.stack(self._tally.means))

    def unseen(self, tally: Tally) -> Unseen:
        """The variance at outcomes too rare for the replicates of this estimator."""
        if self._enumeration is None:
            return NOTHING
        expectation = self._expectation
        generator = expectation.generator(0)
        examples = [
            tally.estimator.propose(expectation.dist, context=expectation.context, generator=generator)
            for _ in range(EXAMPLES)
        ]
        return self._enumeration.unseen(examples, tally.replicates * len(examples[0].points))

    def describe(self) -> str:
        """The reference in words, for notes."""
        if self._tally is None or len(self._tally.means) < 2:
            return self.text
        means = torch.stack(self._tally.means)
        error = math.sqrt(float(means.var(0).sum()) / len(means))
        length = signal(means)
        relative = f"{100 * error / length:.2g} % of the gradient" if length > 0 else "above the gradient"
        return f"a long run of {self._tally.estimator.label}, standard error {relative}"


class Yardstick(Protocol[M]):
    """What estimates are judged by: a `Reference`, or that of a program."""

    @property
    def known(self) -> bool:
        """Whether a gradient is known."""

    def means(self, groups: int) -> Tensor:
        """[groups, coordinates]."""

    def values(self, groups: int) -> Tensor | None:
        """[groups], the value of the expectation summed over the batch; None where it is not known."""

    def unseen(self, tally: M) -> Unseen:
        """The variance at outcomes too rare for these estimates."""

    def describe(self) -> str:
        """In words, for notes."""


def judge(tally: M, reference: Yardstick[M], rounding: float) -> Bias | None:
    """The bias of an estimator by the groups so far; None where too little is known."""
    groups = len(tally.means)
    if groups < LEAST_GROUPS or not reference.known:
        return None
    means = reference.means(groups)
    value = float(torch.tensor(tally.values).abs().mean())  # the rounding of large costs is left in small gradients
    rounded = rounding * math.hypot(signal(means), value)
    return bias(torch.stack(tally.means), means, rounded, reference.unseen(tally))


def _repeatable(expectation: Measured) -> bool:
    """Whether f gives equal costs twice. One enumeration of a random f is not the mean over its noise."""
    points = expectation.variables.sample(2, expectation.generator(0))
    with torch.no_grad():
        first, second = (expectation.costs("f", points).double() for _ in range(2))
    return torch.allclose(first, second, rtol=1e-4)


def _flat(expectation: Measured, exact: Exact) -> Tensor:
    """The given gradient as [coordinates], in the order of the measured parameters."""
    shapes = {name: tuple(shape) for name, shape in expectation.shapes.items()}
    if isinstance(exact, Tensor):
        exact = (exact,)
    given = dict(exact) if isinstance(exact, Mapping) else dict(zip(shapes, exact, strict=False))
    count = len(exact)
    if count != len(shapes) or any(name not in given or tuple(given[name].shape) != s for name, s in shapes.items()):
        wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        got = ", ".join(f"{name} {list(g.shape)}" for name, g in given.items())
        raise ValueError(
            f"exact needs one gradient for each parameter that requires one, of its shape: {wanted}; got "
            f"{got or 'none'}{'' if count == len(given) else f' and {count - len(given)} more'}. Detach the parameters "
            "that are not learned."
        )
    return torch.cat([given[name].detach().reshape(-1).to(expectation.device) for name in shapes]).double()
