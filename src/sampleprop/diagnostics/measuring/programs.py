"""Runs of a program for a measurement: true samples, given samples, and estimates of the gradient of all its leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

from sampleprop import graph
from sampleprop.diagnostics.measuring.attached import MOST_COORDINATES
from sampleprop.diagnostics.measuring.enumeration import FEW
from sampleprop.diagnostics.measuring.replicates import Estimates, describe_error
from sampleprop.diagnostics.measuring.statistics import NOTHING, Unseen, signal
from sampleprop.diagnostics.measuring.tally import GROUPS, Moments
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
        return float(value.detach()), _flat(found)

    def measured(self, model: program[...], replicates: int, generator: Generator, label: str = "") -> Moments:
        """This many independent estimates, one after the other, in groups of one size."""
        model = model.using(generator=generator)
        found = Moments(label)
        for _ in range(GROUPS):
            values, gradients = [], []
            for _ in range(-(-replicates // GROUPS)):
                start = time.perf_counter()
                value, gradient = self.estimate(model)
                found.seconds.append(time.perf_counter() - start)
                values.append(value)
                gradients.append(gradient)
            found.add(Estimates(torch.tensor(values, dtype=torch.float64), torch.stack(gradients), 1))
        return found

    def reference(self, replicates: int, generator: Generator) -> Reference:
        """The exact value and gradient by every path; or else a long run of score functions."""
        try:
            found = forced.exact(self.model, self.args, {}, self.leaves, chosen=self.model.setting.estimator)
        except (TypeError, RuntimeError) as error:
            why = describe_error(error)
        else:
            text = f"exact, by {found.paths} paths" + (
                f", {found.missing:.0e} left out" if found.missing > 1e-9 else ""
            )
            return Reference(text, Exact(self, found), None)
        score = ScoreFunction(None)
        if any(
            site.estimator.adds_dimension(site.variables) or score.refusal_of(site.variables) is not None
            for site in self.first.sites
        ):
            return Reference(f"none: {why}", None, None)
        text = f"a long run of {score.label} at every site"
        run = self.measured(self.model.using(score), LONG_RUN * replicates, generator, text)
        return Reference(text, None, run)

    @property
    def draws(self) -> int:
        """How many paths one estimate draws, at its first site."""
        setting = self.model.setting
        copies = setting.particles or setting.apart or 1
        return copies * (self.first.sites[0].estimator.draws if self.first.sites else 1)


class Exact:
    """The exact value and gradient of a program, and the variance due to paths too rare to be drawn.

    Attributes:
        value: of the expected cost, summed over the batch.
        gradient: [coordinates].
    """

    def __init__(self, runs: Runs, found: forced.Exact) -> None:
        self.runs, self.found = runs, found
        self.value = float(found.value.sum())
        self.gradient = _flat(found.gradients)

    def unseen(self, replicates: int) -> Unseen:
        """The score function's variance at rare paths, which the spread of the replicates cannot show."""
        draws = replicates * self.runs.draws
        gradient = along = value = 0.0
        for path in self.found.met:
            rare = (path.drawn > 0) & (path.drawn * draws < FEW)  # [*batch]
            if not bool(rare.any()):
                continue
            beyond = path.cost - self.found.value
            value += float((path.probability * beyond.square())[rare].sum())
            run = forced.Forced(list(path.outcomes), self.runs.model.setting.estimator)
            self.runs.model.under(run, self.runs.args, {})
            assert run.cost is not None
            contributed = run.cost if run.log_prob is None else run.cost + beyond * run.log_prob
            for p, row in zip(path.probability[rare].tolist(), contributed[rare].unbind(), strict=True):
                if row.requires_grad:
                    own = _flat(
                        torch.autograd.grad(
                            row, self.runs.leaves, retain_graph=True, allow_unused=True, materialize_grads=True
                        )
                    )
                    gradient += p * float(own.square().sum())
                    along += p * float(own @ self.gradient) ** 2
        return Unseen(gradient / draws, along / draws, value / draws)


class Reference:
    """What the estimates of a program are compared with: an exact gradient, a long run, or nothing.

    Attributes:
        text: in words.
        exact: where every path could be run.
        run: the long run, where not.
    """

    def __init__(self, text: str, exact: Exact | None, run: Moments | None) -> None:
        self.text, self.exact, self.run = text, exact, run

    @property
    def known(self) -> bool:
        """Whether a gradient is known. A long run in which every gradient was zero does not count."""
        return self.exact is not None or (self.run is not None and any(bool(mean.any()) for mean in self.run.means))

    def means(self, groups: int) -> Tensor:
        """[groups, coordinates]."""
        if self.exact is not None:
            return self.exact.gradient.expand(groups, -1)
        assert self.run is not None
        return torch.stack(self.run.means[:groups])

    def values(self, groups: int) -> Tensor | None:
        """[groups], the expected cost summed over the batch; None where it is not known."""
        if self.exact is not None:
            return torch.full((groups,), self.exact.value, dtype=torch.float64)
        return None if self.run is None else torch.tensor(self.run.values[:groups], dtype=torch.float64)

    def unseen(self, tally: Moments) -> Unseen:
        """The variance at paths too rare for these estimates."""
        return NOTHING if self.exact is None else self.exact.unseen(tally.replicates)

    def length(self) -> float | None:
        """The length of the gradient, or None where it is not known."""
        return signal(self.means(GROUPS)) if self.known else None

    def describe(self) -> str:
        """In words, for notes."""
        return self.text


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.reshape(-1).double() for gradient in gradients])


def _attached(x: Tensor) -> bool:
    """Whether it requires a gradient, or is an expanded view of what does, made under `torch.no_grad()`."""
    return x.requires_grad or (x._base is not None and x._base.requires_grad)
