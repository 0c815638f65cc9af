"""`sample` and `charge`: what a program's function calls, anywhere down the call stack."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from sampleprop import checks
from sampleprop.estimator import Estimator
from sampleprop.estimators.pathwise.pathwise import Pathwise
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Variables, recognize
from sampleprop.tracing import Aside, in_backward

Again = Callable[[Variables], Tensor]  # draws once more what was drawn, with the same values


class Run(ABC):
    """One call of a program's function: where its sites draw from and what they charge to.

    Attributes:
        mode: what sees the operations of the program, and is taken aside where the library works.
        generator: the source of noise of the programs that are called inside; None for torch's own.
    """

    mode: TorchFunctionMode | None = None
    generator: Generator | None = None

    @abstractmethod
    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        """The value of the next site."""

    @abstractmethod
    def charge(self, cost: Any) -> None:
        """Add a cost to the sites before it."""

    @abstractmethod
    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        """`sample`, and the function that gives the same value to a region that is run a second time."""

    def finish(self, returned: Any) -> None:
        """Charge what the function returned."""
        if returned is not None:
            self.charge(returned)


class Inside(AbstractContextManager[None]):
    """Makes this the innermost run of the thread; a class of its own, which `torch.compile` traces."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __enter__(self) -> None:
        _THREAD.runs.append(self.run)

    def __exit__(self, *error: object) -> None:
        _THREAD.runs.pop()


def sample(
    dist: Distribution,
    estimator: Estimator[Any, Any] | None = None,
    *,
    context: Tensor | None = None,
    name: str | None = None,
) -> Tensor:
    r"""Draw a random variable inside a running program, at any depth of the call stack.

    An estimator that draws one sample (``samples=1`` or ``None``) adds no dimension: the value is [\*batch, \*event],
    as from `dist.sample()`. An estimator that needs several points adds a dimension on the left,
    [k, \*batch, \*event]. Everything that is computed from the value then has this dimension too.

    Outside a program, if gradients are off or the parameters need none, this is a true sample without gradient. With
    gradients, pathwise, straight-through and relaxed estimators return samples that carry a gradient, as
    `torch.nn.functional.gumbel_softmax` does. All other estimators are refused, because their costs are not known
    there.

    Args:
        dist: any `torch.distributions` object, of the batch shape of the program at this place.
        estimator: how its gradient is estimated. None for `Pathwise` if that accepts the distribution, and otherwise
            for `ScoreFunction`. `program.using` can replace it.
        context: [\*batch, ...], for baselines and critics that learn.
        name: the name of the site, for `program.using` and `program.sample`. `CoupledReplay` keeps noise by name, so
            that different paths use the same noise at the same site.

    Raises:
        TypeError: for an estimator that does not take the distribution.
        ValueError: for a distribution of another batch shape than that of the sites before it.
        RuntimeError: outside a program, if the gradient would be zero; in a backward pass (see `checkpointed`); and
            under `torch.no_grad()` in a program that began with gradients.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli, Independent
        >>> gate = lambda h: h * sp.sample(Independent(Bernoulli(logits=h), 1))  # the same in training and evaluation
        >>> loss = sp.program(lambda h: gate(h).square().sum(-1))
        >>> h = torch.zeros(2, 3, requires_grad=True)
        >>> loss(h).shape
        torch.Size([2])
        >>> with torch.no_grad():
        ...     gate(h).shape
        torch.Size([2, 3])
    """
    if not isinstance(dist, Distribution):
        raise TypeError(checks.no_distribution("sp.sample", dist))
    if not (estimator is None or isinstance(estimator, torch.nn.Module)):
        raise TypeError(
            f"sp.sample needs an estimator object; got {estimator!r:.80}. Pass sp.ScoreFunction(None), say."
        )
    if in_backward():
        if _THREAD.repeated is None:
            raise RuntimeError(
                "sp.sample needs to be called once for each draw; got a call from a backward pass, by activation "
                "checkpointing, which runs the module again. Give the checkpoint context_fn=sp.checkpointed, so that "
                "the same samples come back."
            )
        return _THREAD.repeated.next(recognize(dist))
    runs = _THREAD.runs
    if not runs:
        return _outside(recognize(dist), estimator)
    run = runs[-1]
    if run.mode is None:
        return _inside(run, recognize(dist), estimator, context, name)
    with Aside(run.mode):
        return _inside(run, recognize(dist), estimator, context, name)


def charge(cost: Tensor) -> None:
    r"""Add a cost to the running program. It is charged to the variables that were drawn before it, and to no others.

    Args:
        cost: of the batch shape at this place, [\*batch], with the dimensions that sites before it have added.

    Raises:
        RuntimeError: outside a program, for a cost with a gradient, because the gradient would be lost.
        TypeError: for an object that is not a tensor.
        ValueError: for another shape.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli
        >>> @sp.program
        ... def walk(x, drift):
        ...     for _ in range(5):
        ...         x = x + 2 * sp.sample(Bernoulli(logits=drift - 0.1 * x)) - 1
        ...         sp.charge((x - 3).square())
        >>> walk(torch.zeros(4), torch.zeros(4, requires_grad=True)).shape
        torch.Size([4])
    """
    if _THREAD.repeated is not None and in_backward():
        return  # a checkpointed region is run a second time, and its costs have been charged
    runs = _THREAD.runs
    if runs:
        run = runs[-1]
        if run.mode is None:
            run.charge(cost)
        else:
            with Aside(run.mode):
                run.charge(cost)
    elif torch.is_grad_enabled() and isinstance(cost, Tensor) and cost.requires_grad:
        raise RuntimeError(
            "sp.charge needs a program to charge; got a cost outside of one, which would be lost. Call it from a "
            "function under @sp.program, or under torch.no_grad()."
        )


def checkpointed() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The `context_fn` for `torch.utils.checkpoint.checkpoint`, if the checkpointed function has sites.

    The backward pass runs the function a second time, and its sites then return the same values. Everything else that
    the function reads, such as its parameters, must be the same in both passes.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli, Independent
        >>> from torch.utils.checkpoint import checkpoint
        >>> gated = lambda h: h.tanh() * sp.sample(Independent(Bernoulli(logits=h), 1))
        >>> @sp.program
        ... def loss(h):
        ...     return checkpoint(gated, h, use_reentrant=False, context_fn=sp.checkpointed).sum(-1)
        >>> loss(torch.zeros(2, 3, requires_grad=True)).sum().backward()
    """
    recorded = _Recorded()
    return _Passing("recording", recorded), _Passing("repeated", recorded)


def inherited() -> Generator | None:
    """The generator of the run in which this is called, for a program that has none of its own."""
    return _THREAD.runs[-1].generator if _THREAD.runs else None


def default(variables: Variables) -> Estimator[Any, Any]:
    """What estimates the gradient of a site for which nothing else is given."""
    return PATHWISE if PATHWISE.refusal_of(variables) is None else SCORE


def _inside(
    run: Run, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
) -> Tensor:
    if _THREAD.recording is not None:
        return _THREAD.recording.note(run, variables, estimator, context, name)
    return run.sample(variables, estimator, context, name)


def _outside(variables: Variables, estimator: Estimator[Any, Any] | None) -> Tensor:
    if not torch.is_grad_enabled() or not variables.attached:
        return variables.sample(1).squeeze(0)
    chosen = default(variables) if estimator is None else estimator
    refusal = chosen.refusal_of(variables)
    if refusal is not None:
        raise TypeError(refusal)
    if not isinstance(chosen, ThroughPoints):
        raise RuntimeError(
            f"{chosen.name} needs the costs that follow its sample, and so a program; got sp.sample outside of one "
            "with gradients on, where its gradient would be zero. Call it from a function under @sp.program, or under "
            "torch.no_grad()."
        )
    if chosen.adds_dimension(variables):
        raise RuntimeError(
            f"{chosen.label} draws several samples, which a program averages; got sp.sample outside of one. Give "
            "samples=None, or call it from a function under @sp.program."
        )
    return chosen.one(variables, None)


class _Recorded:
    """The draws of one region: noted as it runs, given back when the backward pass runs it again."""

    def __init__(self) -> None:
        self.draws: list[Again] = []
        self.position = 0

    def note(
        self,
        run: Run,
        variables: Variables,
        estimator: Estimator[Any, Any] | None,
        context: Tensor | None,
        name: str | None,
    ) -> Tensor:
        value, again = run.recorded(variables, estimator, context, name)
        self.draws.append(again)
        return value

    def next(self, variables: Variables) -> Tensor:
        again = self.draws[self.position]
        self.position += 1
        return again(variables)


class _Passing(AbstractContextManager[None]):
    """One of the two passes through a checkpointed region."""

    def __init__(self, attribute: str, recorded: _Recorded) -> None:
        self.attribute, self.recorded = attribute, recorded

    def __enter__(self) -> None:
        self.before = getattr(_THREAD, self.attribute)
        self.recorded.position = 0
        setattr(_THREAD, self.attribute, self.recorded)

    def __exit__(self, *error: object) -> None:
        setattr(_THREAD, self.attribute, self.before)


class _Thread(threading.local):  # `torch.compile` traces it, and no ContextVar
    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.recording: _Recorded | None = None
        self.repeated: _Recorded | None = None


_THREAD = _Thread()
PATHWISE, SCORE = Pathwise(None), ScoreFunction(None)
