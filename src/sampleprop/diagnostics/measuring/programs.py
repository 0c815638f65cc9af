"""Runs of a program for a measurement: true samples, given samples, and estimates of the gradient of all its leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from sampleprop import graph
from sampleprop.diagnostics.measuring.attached import MOST_COORDINATES
from sampleprop.diagnostics.measuring.replicates import describe_error
from sampleprop.diagnostics.measuring.statistics import LEAST_GROUPS, Bias, bias, signal
from sampleprop.diagnostics.measuring.tally import GROUPS
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Variables
from sampleprop.programs import forced
from sampleprop.programs.folding import chosen_at, no_cost, require_cost
from sampleprop.programs.program import program
from sampleprop.programs.site import PATHWISE, Again, Run

EXAMPLES = 8  # runs that tell which leaves a program has
LONG_RUN = 4  # runs of the reference for each run of an estimator
PRIMITIVES = ("bernoulli", "multinomial", "normal", "poisson", "binomial", "bernoulli_")


class Site(NamedTuple):
    """One site as it was met.

    Attributes:
        name: as the program gives it.
        variables: its distribution.
        estimator: how its gradient is estimated.
        value: what it gave, detached; without a dimension of its own.
    """

    name: str | None
    variables: Variables
    estimator: Estimator[Any, Any]
    value: Tensor


class Sampling(Run):
    """Draws true samples, attached where the estimator differentiates through them, and gathers log-probabilities.

    Attributes:
        sites: in order.
        costs: in order, each without the dimensions that sites add.
        log_probs: of the other samples.
        dead: the names of sampling functions of torch that were called with parameters that require a gradient.
    """

    def __init__(self, model: program[...], given: Sequence[Tensor] | None = None) -> None:
        self.chosen = model.setting.estimator
        self.given = given
        self.sites: list[Site] = []
        self.costs: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.dead: list[str] = []
        self.inside = False

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        estimator = chosen_at(self.chosen, variables, estimator, name)
        refusal = estimator.refusal_of(variables)
        if refusal is not None:
            raise TypeError(refusal)
        through = isinstance(estimator, ThroughPoints) and PATHWISE.refusal_of(variables) is None
        self.inside = True
        if self.given is not None:
            value = self.given[len(self.sites)].clone()
        else:
            value = PATHWISE.one(variables, None) if through else variables.sample(1).squeeze(0)
        self.inside = False
        if not through:
            self.log_probs.append(variables.log_prob(value.unsqueeze(0)))
        self.sites.append(Site(name, variables, estimator, value.detach().clone()))
        return value.unsqueeze(0) if estimator.adds_dimension(variables) else value

    def charge(self, cost: Any) -> None:
        require_cost(cost)
        self.costs.append(cost)

    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        value = self.sample(variables, estimator, context, name)
        return value, lambda variables: value.detach()

    @property
    def total(self) -> Tensor:
        """The cost of each row, [*batch], of the shape of the first cost."""
        shape = min((cost.shape for cost in self.costs), key=len)
        return torch.stack([cost.reshape(shape) for cost in self.costs]).sum(0)


class Guard(TorchFunctionMode):
    """Notes calls of torch's sampling functions with parameters that require a gradient, outside of sites."""

    def __init__(self, run: Sampling) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in PRIMITIVES and not self.run.inside:
            tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)]
            if any(_attached(x) for x in tensors):
                self.run.dead.append(name)
        return func(*args, **(kwargs or {}))


class Runs:
    """A program with its arguments, and the tensors with respect to which its gradient is measured.

    Args:
        model: the program, with its setting.
        args: its arguments.

    Raises:
        ValueError: for a program without leaves that require a gradient, or with too many numbers in them.
    """

    def __init__(self, model: program[...], args: Sequence[Any]) -> None:
        self.model = model
        self.args = tuple(args)
        self.examples = [self.sampled() for _ in range(EXAMPLES)]
        self.first = self.examples[0]
        self.leaves = graph.leaves(x for run in self.examples for x in (*run.costs, *run.log_probs))
        count = sum(leaf.numel() for leaf in self.leaves)
        if not self.leaves:
            raise ValueError(
                "A measurement of a program needs tensors that require a gradient; got none. Give it parameters."
            )
        if count > MOST_COORDINATES:
            raise ValueError(
                f"A measurement of a program compares {MOST_COORDINATES} numbers at most; got parameters with "
                f"{count}. Give a smaller model."
            )
        self.rounding = 64 * max(torch.finfo(leaf.dtype).eps for leaf in self.leaves)

    def sampled(self, given: Sequence[Tensor] | None = None, guarded: bool = False) -> Sampling:
        """One run with true samples, or with given ones."""
        run = Sampling(self.model, given)
        with Guard(run) if guarded else nullcontext():
            self.model.under(run, self.args, {})
        if not run.costs:
            raise no_cost()
        return run

    def estimate(self, model: program[...]) -> tuple[float, Tensor]:
        """The value and the gradient of all leaves, of the sum over the batch."""
        value = model(*self.args).sum()
        found = torch.autograd.grad(value, self.leaves, allow_unused=True, materialize_grads=True)
        return float(value.detach()), torch.cat([g.reshape(-1).double() for g in found])

    def measured(self, model: program[...], replicates: int, generator: Generator) -> Measured:
        """This many independent estimates, one after the other."""
        model = model.using(generator=generator)
        values, gradients, seconds = [], [], []
        for _ in range(replicates):
            start = time.perf_counter()
            value, gradient = self.estimate(model)
            seconds.append(time.perf_counter() - start)
            values.append(value)
            gradients.append(gradient)
        return Measured(torch.tensor(values, dtype=torch.float64), torch.stack(gradients), seconds)

    def reference(self, replicates: int, generator: Generator) -> Known:
        """The exact value and gradient by every path; or else a long run of score functions."""
        try:
            found = forced.exact(self.model, self.args, {}, self.leaves, chosen=self.model.setting.estimator)
        except (TypeError, RuntimeError) as error:
            why = describe_error(error)
        else:
            gradient = torch.cat([g.reshape(-1).double() for g in found.gradients])
            text = f"exact, by {found.paths} paths" + (
                f", {found.missing:.0e} left out" if found.missing > 1e-9 else ""
            )
            return Known(float(found.value.sum()), gradient, None, text)
        if any(site.estimator.adds_dimension(site.variables) for site in self.first.sites):
            return Known(None, None, None, f"none: {why}")
        score = ScoreFunction(None)
        if any(score.refusal_of(site.variables) is not None for site in self.first.sites):
            return Known(None, None, None, f"none: {why}")
        run = self.measured(self.model.using(score), LONG_RUN * replicates, generator)
        return Known(float(run.values.mean()), None, run, f"a long run of {score.label} at every site")


class Measured(NamedTuple):
    """Independent estimates.

    Attributes:
        values: [replicates].
        gradients: [replicates, coordinates].
        seconds: of each.
    """

    values: Tensor
    gradients: Tensor
    seconds: list[float]

    def groups(self) -> Tensor:
        """The means of groups, [groups, coordinates]."""
        return torch.stack([part.mean(0) for part in self.gradients.chunk(GROUPS)])


class Known(NamedTuple):
    """What the estimates are compared with: an exact gradient, a long run, or nothing.

    Attributes:
        value: of the expected cost, summed over the batch.
        gradient: [coordinates], where it is exact.
        run: the long run, where it is not.
        text: in words.
    """

    value: float | None
    gradient: Tensor | None
    run: Measured | None
    text: str

    def bias(self, found: Measured, rounding: float) -> Bias | None:
        """Of these estimates; None where nothing is known."""
        means = found.groups()
        if self.gradient is not None:
            expected = self.gradient.expand_as(means)
        elif self.run is not None and bool(self.run.gradients.any()):
            expected = self.run.groups()[: len(means)]
        else:
            return None
        if len(means) < LEAST_GROUPS:
            return None
        return bias(means, expected, rounding * math.hypot(signal(expected), float(found.values.abs().mean())))

    def length(self) -> float | None:
        """Of the gradient."""
        if self.gradient is not None:
            return float(self.gradient.norm())
        return None if self.run is None else signal(self.run.groups())


def _attached(x: Tensor) -> bool:
    """Whether it requires a gradient, or is an expanded view of what does, made under `torch.no_grad()`."""
    return x.requires_grad or (x._base is not None and x._base.requires_grad)
