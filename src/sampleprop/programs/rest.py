"""The rest of a program as a function of one variable: the program run again, with a value in its place.

The variables before it keep what was drawn. Those after it are relaxed, as functions of their parameters and of noise
that is independent of the variable's own. So this function is smooth in the value, and it can be a control variate: any
function c can for which E[∇c(z)] = ∇E[c(z)]. A function that draws later variables hard, from noise that is held fixed,
jumps and cannot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Size, Tensor
from torch.overrides import TorchFunctionMode

from sampleprop import checks, graph
from sampleprop.costs import Soft, Softening
from sampleprop.estimator import AnyDraw, Estimator
from sampleprop.estimators.relaxed import conditional
from sampleprop.estimators.relaxed.relaxation import perturbation, soften
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.families import Discrete, Integers, Variables
from sampleprop.programs.computed import Computed, known
from sampleprop.programs.fold import Node, no_cost_after
from sampleprop.programs.site import Again, Inside, Run
from sampleprop.programs.streams import Saved, saved, seed_from, stream
from sampleprop.tracing import inspectable, mapped


@dataclass(slots=True)
class Later:
    """A variable that may come after one whose estimator runs the program again."""

    estimator: Estimator[Any, Any]
    draw: AnyDraw
    dimension: bool
    variables: Variables  # as they were drawn, by the logits of the true samples before them
    batch: Size  # of what follows
    points: int  # with the probes
    noise: Tensor | None = None  # [points, *batch, *event], what was added to the logits


class Trace:
    """What a run has drawn, and how to run it again.

    Args:
        call: runs the function, with the arguments that it had.
        nodes: the variables so far. Those before a variable are still there when it is folded.
        computed: what the run has computed, if it is watched.
    """

    def __init__(self, call: Callable[[], Any], nodes: list[Node], computed: Computed | None = None) -> None:
        self.call = call
        self.nodes = nodes
        self.computed = computed
        self.source: Generator | None = None  # the program's own, from which programs inside draw
        self.seed: int | None = None
        self.first = 0  # the number of the first variable with a stream of its own
        self.later: list[Later] = []
        self.state: Saved | None = None

    @property
    def started(self) -> bool:
        """Whether variables have streams of their own."""
        return self.seed is not None

    @property
    def count(self) -> int:
        """How many variables the program has drawn."""
        return self.first + len(self.later)

    def begin(self, name: str, generator: Generator | None, device: torch.device) -> None:
        """From here on each variable has a stream of its own; the program's other noise can then be repeated alone."""
        if self.seed is not None:
            return
        if torch.compiler.is_dynamo_compiling():
            raise RuntimeError(
                f"{name} evaluates the rest of the program at relaxed points, by derivatives that torch.compile does "
                "not trace; got a compiled program. Compile its modules instead, or use DisARM or ScoreFunction."
            )
        seed = seed_from(generator)
        if mapped(seed):
            raise RuntimeError(
                f"{name} runs the program again, which it cannot under torch.vmap; got a program there. Give the "
                "program a batch instead, or use DisARM or ScoreFunction."
            )
        self.seed, self.device = int(seed), device
        self.first = len(self.nodes)
        self.source = generator
        self.state = saved(generator)

    def end(self) -> None:
        """The function has returned."""
        if self.computed is not None and self.state is not None and not saved(self.source).same(self.state):
            # Noise of the program's own comes after the first variable, and has to be drawn again.
            self.computed.use_only(self.first + 1)

    def generator(self, default: Generator | None) -> Generator | None:
        """The source of noise for the next variable: its own stream, or the default before `begin`."""
        return default if self.seed is None else self.stream(len(self.nodes))

    def stream(self, index: int) -> Generator:
        """The stream from which variable `index` was drawn."""
        assert self.seed is not None
        return stream(self.seed, 2 * index, self.device)

    def fresh(self, index: int) -> Generator:
        """Noise for a variable that is independent of what it drew."""
        assert self.seed is not None
        return stream(self.seed, 2 * index + 1, self.device)

    def note(self, node: Node, variables: Variables) -> None:
        """Keep what a later run needs of a variable that was just drawn."""
        probes = 0 if node.draw.probes is None else len(node.draw.probes)
        points = len(node.draw.points) + probes if node.dimension else 1
        self.later.append(Later(node.estimator, node.draw, node.dimension, variables, node.batch, points))

    def noise(self, index: int) -> Tensor:
        """The noise behind what was drawn, or new noise where the points are no independent draws."""
        later = self.later[index - self.first]
        if later.noise is None:
            variables = later.variables
            assert isinstance(variables, Discrete)
            draw, logits = later.draw, conditional.finite(variables.logits.detach())
            with torch.no_grad():
                if isinstance(draw, conditional.Draw):
                    later.noise = draw.z - logits
                elif isinstance(later.estimator, ScoreFunction) and len(draw.points) == later.points:
                    points = draw.points.to(logits.dtype)
                    later.noise = conditional.latent(variables, points, self.fresh(index)) - logits
                else:
                    later.noise = perturbation(variables, later.points, self.fresh(index))
        return later.noise


@dataclass(frozen=True)
class Rest(Soft):
    """From values of variable `index`, [m, *batch, *event], to the costs that follow it, [m, *batch].

    Attributes:
        rows: the points that the variable had, which each run gets.
        name: its estimator, for messages.
        allow_steps: whether the cost may have a step where it is differentiated.
    """

    trace: Trace
    index: int
    rows: int
    name: str
    allow_steps: bool = False

    def __call__(self, points: Tensor, softening: Softening | None = None) -> Tensor:
        if len(points) == 1 and self.rows > 1:  # one point for all samples, such as the mean
            return self._once(points.expand(self.rows, *points.shape[1:]), softening).mean(0, keepdim=True)
        if len(points) == self.rows:
            return self._once(points, softening)
        return torch.cat([self._once(piece, softening) for piece in points.split(self.rows)])

    def _once(self, points: Tensor, softening: Softening | None) -> Tensor:
        trace, later = self.trace, self.trace.later[self.index - self.trace.first]
        together = not later.dimension and self.rows > 1  # the samples are the particles: [K, rows, ...]
        if together:
            value = points.flatten(0, 1)
            if softening is not None and softening.log_temperature.dim():
                rows = softening.log_temperature.expand(self.rows, *softening.log_temperature.shape)
                softening = softening._replace(log_temperature=rows.flatten(0, 1))
        else:
            value = points if later.dimension else points.squeeze(0)
        run = _Relaxed(self, value.clone(), softening)  # a copy: the program may write into it
        after = saved(trace.source)
        try:
            with Inside(run):
                with run.mode:
                    returned = trace.call()
                run.finish(returned)
        finally:
            after.put_back()
        if run.position != trace.count:
            raise run.parted()
        costs = run.cost
        if costs is None:
            raise no_cost_after(self.name)
        checks.relaxed_path(self.name, costs, value, self.allow_steps)
        if inspectable(costs):
            checks.finite(self.name, costs, "raise")
            if value.requires_grad:
                value.register_hook(lambda derivative: checks.finite_derivative(self.name, derivative))
        if together:
            costs = costs.reshape(self.rows, costs.shape[0] // self.rows, *costs.shape[1:])
            return costs
        return costs if later.dimension else costs.unsqueeze(0)


class _Again(TorchFunctionMode):
    """Sees the program's own operations when it runs again.

    What the first run has computed in the same way is not computed again. And `detach` keeps the way back to the value:
    a control variate needs the derivative of all that depends on it. A program detaches, say, the logits in log q,
    since their gradient has mean zero at true samples. It has not at relaxed ones. Where numbers leave torch, no way
    back is kept.
    """

    LEAVES = frozenset(
        (
            *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__),
            *(Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__),
        )
    )

    def __init__(self, value: Tensor, computed: Computed | None) -> None:
        super().__init__()
        self.node = graph.node_of(value) if value.requires_grad else None
        self.computed = computed
        self.begin(0)

    def begin(self, part: int) -> None:
        """The part after so many variables."""
        self.operations = iter(() if self.computed is None else self.computed.of(part))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Called for every operation of the program, so nothing else stands on this path.
        if torch.compiler.is_dynamo_compiling():  # a compiled part, which is traced with this mode on
            return func(*args, **kwargs) if kwargs else func(*args)
        result = known(next(self.operations, None), func, args, kwargs)
        if result is not None:
            return result
        if (func is Tensor.detach or func is torch.detach) and self._follows(args[0]):
            return args[0].view_as(args[0])
        if func in self.LEAVES:
            args = (args[0].detach(), *args[1:])
        return func(*args, **kwargs) if kwargs else func(*args)

    def _follows(self, x: Tensor) -> bool:
        """Whether the program's own code, and not that of the library in it, detaches what depends on the value."""
        if self.node is None or not (inspectable(x) and x.requires_grad):
            return False
        caller = str(sys._getframe(2).f_globals.get("__name__"))
        return caller.partition(".")[0] != "sampleprop" and not graph.look(x, self.node).unreached


class _Relaxed(Run):
    """Runs the program with a value in place of one variable, and those after it relaxed."""

    mode: _Again

    def __init__(self, rest: Rest, value: Tensor, softening: Softening | None) -> None:
        self.rest, self.value, self.softening = rest, value, softening
        self.mode = _Again(value, rest.trace.computed)
        self.generator = rest.trace.source
        self.position = 0
        self.cost: Tensor | None = None

    def parted(self) -> Exception:
        return RuntimeError(
            f"{self.rest.name} runs the program again at relaxed points; got other variables than before. Let the "
            "variables not depend on a sample's value, or use ScoreFunction."
        )

    def sample(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> Tensor:
        index, trace = self.position, self.rest.trace
        self.position += 1
        self.mode.begin(self.position)
        if index == trace.first:
            assert trace.state is not None
            trace.state.put_back()  # the program's own noise, such as dropout, is what it was
        return self._value(index, variables)

    def charge(self, cost: Tensor) -> None:
        if self.position <= self.rest.index:
            return
        batch = self.rest.trace.later[self.rest.index - self.rest.trace.first].batch
        if cost.dim() > len(batch):  # the samples of later variables
            cost = cost.flatten(0, cost.dim() - len(batch) - 1).mean(0)
        self.cost = cost if self.cost is None else self.cost + cost

    def recorded(
        self, variables: Variables, estimator: Estimator[Any, Any] | None, context: Tensor | None, name: str | None
    ) -> tuple[Tensor, Again]:
        index = self.position
        before = saved()
        value = self.sample(variables, estimator, context, name)
        after = saved()

        def again(variables: Variables) -> Tensor:
            now = saved()
            try:
                return self._value(index, variables)
            finally:
                (after if now.same(before) else now).put_back()

        return value, again

    def _value(self, index: int, variables: Variables) -> Tensor:
        rest, trace = self.rest, self.rest.trace
        if index < rest.index:
            given = None if trace.computed is None else trace.computed.value(index)
            return trace.nodes[index].value.clone() if given is None else given
        if index >= trace.count:
            raise self.parted()
        later = trace.later[index - trace.first]
        if index == rest.index:
            return self.value
        hard = later.variables
        shapes = (variables.batch_shape, variables.event_shape), (hard.batch_shape, hard.event_shape)
        if shapes[0] != shapes[1] or variables.kind != hard.kind:
            raise self.parted()
        k = later.points if later.dimension else None
        if isinstance(variables, Integers):
            raise TypeError(
                f"{rest.name} runs the program again with later variables relaxed; got Categorical, whose values are "
                "numbers. Use OneHotCategorical there, or RELAX(use_f=False) or ScoreFunction here."
            )
        if not isinstance(variables, Discrete):
            if variables.is_discrete or not variables.dist.has_rsample:
                raise TypeError(
                    f"{rest.name} runs the program again with later variables relaxed; got {variables.kind}, which "
                    "has no relaxation. Use RELAX(use_f=False) or ScoreFunction here."
                )
            return variables.rsample(k, trace.stream(index))
        logits = conditional.finite(variables.logits)
        if self.softening is None:  # the mean field
            soft = soften(variables, logits).expand(later.points, *logits.shape)
        else:
            scores = logits + trace.noise(index)
            temperature = self.softening.temperature(scores, variables.event_ndim)
            soft = soften(variables, self.softening.scores(logits, scores, temperature))
        soft = soft.to(variables.dtype)
        return soft if later.dimension else soft.squeeze(0)
