"""Programs of several random variables: nested expectations, written as generators.

A program is the nested expectation that it reads as. Each random variable's cost is what the rest of the program costs,
so a cost yielded before a variable is never charged to it. The engine keeps a list of the variables and folds it from
the last to the first; it does not recurse, so a chain may have any length. Score functions that follow one another
without a dimension of their own are folded together, by the form of Foerster et al. (2018), "DiCE", sec. 4: a cost
times the box of all variables before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import checks, noise, parallel
from sampleprop.costs import Costs, Group, others
from sampleprop.estimator import AnyDraw, Estimator
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.through_points import Draw as Through
from sampleprop.estimators.through_points import ThroughPoints
from sampleprop.families import Discrete, Variables, recognize
from sampleprop.tracing import inspectable, unwrapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

P = ParamSpec("P")
Steps = Generator[Any, Any, Tensor | None]


class program(Generic[P]):
    r"""Make a generator function a function that returns its expected cost, with gradients.

    Inside, `x = yield dist, estimator` draws a random variable, `yield cost` adds a cost, `return cost` adds the last
    one. An estimator with `samples=K` adds one dimension of K on the left of x, as `dist.sample((K,))` does, and all
    that is computed from x has it too; with `samples=None` it draws once and adds none, which keeps long chains small.

    .. math:: L = \mathbb{E}_{x_1}\big[c_1 + \mathbb{E}_{x_2 | x_1}[c_2 + \dots]\big]

    Shapes: the batch of each distribution is that of the variables before it, [\*K, \*batch]; a cost has the shape of
    the batch at its place. Conditionally independent items (a plate) are an inner `expect` and a sum. Sub-programs:
    `x = yield from other.steps(...)`. Methods of modules can be programs. Branches and loops of random length work, as
    long as all samples of a batch take the same branch. Programs run eagerly. Estimators that evaluate f at relaxed
    points need a cost that is differentiable in the variable, and their control variates (temperature, critic) stay as
    they are: train them with `expect`.

    Raises:
        TypeError: for a function that does not yield, and for yielding anything but a cost or a pair of distribution
            and estimator.
        ValueError: for a distribution or cost of another shape, and for a variable with no cost after it.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli
        >>> @sp.program
        ... def model(logit):
        ...     a = yield Bernoulli(logits=logit), sp.ScoreFunction(samples=4)
        ...     yield 0.1 * a
        ...     b = yield Bernoulli(logits=a - logit), sp.Enumerate()
        ...     return (a - b).square()
        >>> logit = torch.tensor(0.2, requires_grad=True)
        >>> model(logit).backward()
    """

    def __init__(self, steps: Callable[P, Steps]) -> None:
        functools.update_wrapper(self, steps)
        self._steps = steps
        self._setting = _Setting()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return _run(self._steps(*args, **kwargs), self._setting, None)

    def sample(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, list[Tensor]]:
        """The expected cost, and the draws of each random variable in order, detached, for logging."""
        drawn: list[Tensor] = []
        return _run(self._steps(*args, **kwargs), self._setting, drawn), drawn

    def steps(self, *args: P.args, **kwargs: P.kwargs) -> Steps:
        """The generator itself, for `yield from` in another program."""
        return self._steps(*args, **kwargs)

    def using(
        self,
        generator: torch.Generator | None = None,
        *,
        particles: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> program[P]:
        r"""The same program with other settings; those not given stay as they are.

        Args:
            generator: the source of all its noise.
            particles: S, at least 1: the program runs S independent copies of itself. Every batch begins with S, in the
                first distribution and in each cost, as in `Bernoulli(logits=logits.expand(S, 5))`; the result is the
                mean over them, [\*batch]. A score function leaves one particle out: its baseline is the mean of what
                the others cost from there on.
            process_group: ranks that run the same program on the same batch elements: score functions leave one out
                over the samples of all of them. The value and gradient of each rank are those of its share.

        Raises:
            ValueError: for a number of particles below 1.
        """
        if particles is not None:
            checks.samples("A program", particles, argument="particles")
        now = self._setting
        return self._with(
            self._steps,
            _Setting(generator or now.generator, particles or now.particles, process_group or now.process_group),
        )

    @overload
    def __get__(self, instance: None, owner: type) -> program[P]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> program[...]: ...

    def __get__(self, instance: object | None, owner: type) -> program[Any]:
        if instance is None:
            return self
        return self._with(functools.partial(self._steps, instance), self._setting)  # type: ignore[arg-type]

    @staticmethod
    def _with(steps: Callable[..., Steps], setting: _Setting) -> program[Any]:
        other: program[Any] = program(steps)
        other._setting = setting
        return other


@dataclass(frozen=True)
class _Setting:
    generator: torch.Generator | None = None
    particles: int | None = None
    process_group: ProcessGroup | None = None


@dataclass(slots=True)
class _Node:
    """One random variable that has been drawn, and the costs yielded since."""

    estimator: Estimator[Any, Any]
    variables: Variables | None  # None when not needed later; fewer live objects make garbage collection cheaper
    draw: AnyDraw  # of a ThroughPoints with samples=None: the points without a sample dimension
    relaxed: Tensor | None  # [r, *batch, *event], where the estimator wants f between the discrete points; a leaf
    batch: torch.Size  # of what follows: [rows, *batch], or [*batch] for samples=None
    costs: list[Tensor] = field(default_factory=list)

    def fold(self, after: Tensor | None, group: Group | None) -> Tensor:
        """The expected cost of this variable and all that follows it, [*batch]."""
        name = self.estimator.name
        total = self.total(after)
        rows = total if self.estimator.adds_dimension else total.unsqueeze(0)
        hard = self.draw.points.shape[0]
        soft = hard if self.relaxed is None else hard + self.relaxed.shape[0]
        probes = None if self.draw.probes is None else noise.promote(rows[soft:].detach())
        relaxed_f = None if self.relaxed is None else _tangent(name, self.relaxed, rows[hard:soft])
        further = group if self.estimator.grouped else None
        with _frozen(self.estimator, self.relaxed is not None):
            costs = Costs(noise.promote(rows[:hard]), probes, relaxed_f, group=further)
            return self.estimator.estimate(self.variables, self.draw, costs)

    def total(self, after: Tensor | None) -> Tensor:
        """What is charged to this variable, given what follows."""
        costs = _total(self.costs, after)
        if costs is None:
            raise ValueError(
                f"{self.estimator.name} needs a cost that is yielded or returned after its variable; got none, so its "
                f"gradient would be zero. Draw a variable that nothing depends on with dist.sample()."
            )
        return costs

    @property
    def chain(self) -> type[Estimator[Any, Any]] | None:
        """Variables of one chain that follow one another fold at once: those with neither dimension nor baseline."""
        estimator = self.estimator
        if estimator.adds_dimension:
            return None
        if isinstance(estimator, ThroughPoints):
            return ThroughPoints
        return ScoreFunction if isinstance(estimator, ScoreFunction) and estimator.baseline is None else None


def _run(steps: Steps, setting: _Setting, drawn: list[Tensor] | None) -> Tensor:
    if not isinstance(steps, Generator):
        raise TypeError(
            f"A program needs a generator function; got one that returned {steps!r:.80}. Draw with "
            f"`x = yield dist, estimator`."
        )
    before: list[Tensor] = []  # costs that no variable is charged for
    nodes: list[_Node] = []
    sent: Tensor | None = None
    while True:
        try:
            item = steps.send(sent)
        except StopIteration as stop:
            if stop.value is not None:
                _charge(stop.value, nodes, before)
            break
        sent = None
        if isinstance(item, Tensor):
            _charge(item, nodes, before)
        else:
            node, sent = _draw(item, nodes, setting)
            if not nodes and setting.process_group is not None:
                parallel.check_streams(setting.generator, process_group=setting.process_group, device=sent.device)
            nodes.append(node)
            if drawn is not None:
                drawn.append((node.draw.points if node.estimator.adds_dimension else sent).detach())
    _finite([*before, *(cost for node in nodes for cost in node.costs)])
    after = _fold(nodes, setting)  # leaves the list empty
    if before and after is not None and before[0].shape != after.shape:
        raise ValueError(
            f"Costs before the first variable need its batch shape, {list(after.shape)}; got {list(before[0].shape)}. "
            f"Nothing is broadcast."
        )
    total = _total(before, after)
    if total is None:
        raise ValueError("A program needs at least one cost; got none. Yield or return a tensor.")
    if setting.particles is None:
        return total
    _particles("A cost", total.shape, setting)
    return total.mean(0)


def _fold(nodes: list[_Node], setting: _Setting) -> Tensor | None:
    """The expected cost of all variables, [*batch], or None where there are none."""
    group = None
    if nodes and (setting.particles is not None or setting.process_group is not None):
        # Each sample dimension is added on the left, so the particles keep their place as counted from the right.
        dim = None if setting.particles is None else nodes[0].estimator.adds_dimension - len(nodes[0].batch)
        group = Group(dim, setting.process_group)
    after: Tensor | None = None
    with checks.gathered_paths() as paths:
        while nodes:
            run = [nodes.pop()]
            chain = run[0].chain
            while chain is not None and nodes and nodes[-1].chain is chain:
                run.append(nodes.pop())
            alone = len(run) == 1 and chain is not ThroughPoints
            after = run[0].fold(after, group) if alone else _fold_chain(run[::-1], after, group, paths)
    if after is not None:
        checks.paths(after, paths)
    return after


def _fold_chain(nodes: list[_Node], after: Tensor | None, group: Group | None, paths: list[checks.Path]) -> Tensor:
    """Variables of one chain, the first one first; they have one batch shape."""
    last = nodes[-1].total(after)
    terms = [_total(node.costs, None) for node in nodes[:-1]]
    costs = noise.promote(
        torch.stack([torch.zeros_like(last) if c is None else c for c in terms] + [last])
    )  # [t, *batch]
    if nodes[0].chain is ThroughPoints:
        for node in nodes:
            if isinstance(estimator := node.estimator, ThroughPoints):
                told = estimator.allow_unused, estimator.allow_steps
                paths.append(checks.Path(estimator.name, node.draw.points, *told))
        return costs.sum(0)
    # DiCE: each cost c_t times the box of x_1 ... x_t.
    log_probs = _log_probs(nodes).cumsum(0)
    boxes = (log_probs - log_probs.detach()).exp()
    if group is None:
        return (costs * boxes).sum(0)
    to_go = costs.detach().flip(0).cumsum(0).flip(0)
    baselines = others(to_go.unsqueeze(0), None, group).squeeze(0)
    boxes_before = torch.cat([torch.ones_like(boxes[:1]), boxes[:-1]])
    return (costs * boxes + baselines * (boxes_before - boxes)).sum(0)


def _log_probs(nodes: list[_Node]) -> Tensor:
    """The log-probability of each variable, [t, *batch]; at once where they are of one kind."""
    variables = [node.variables for node in nodes if node.variables is not None]  # all: none of these is ThroughPoints
    known = [v for v in variables if isinstance(v, Discrete)]
    if len(known) == len(nodes) and len({(type(v), v.logits.shape, v.logits.dtype, v.dtype) for v in known}) == 1:
        together = replace(known[0], logits=torch.stack([v.logits for v in known]))
        return together.log_prob(torch.cat([node.draw.points for node in nodes]))
    pairs = zip(variables, nodes, strict=True)
    return torch.stack([v.log_prob(node.draw.points).squeeze(0) for v, node in pairs])


def _particles(what: str, shape: torch.Size, setting: _Setting) -> None:
    """Refuse a batch that does not begin with the particles."""
    if setting.particles is not None and shape[:1] != (setting.particles,):
        raise ValueError(
            f"{what} of a program with particles={setting.particles} needs a batch that begins with "
            f"{setting.particles}; got {list(shape)}. Expand what it is computed from: "
            f"logits.expand({setting.particles}, *logits.shape)."
        )


def _draw(item: Any, nodes: list[_Node], setting: _Setting) -> tuple[_Node, Tensor]:
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Estimator)):
        raise TypeError(
            f"A program yields a cost (a tensor) or a pair of distribution and estimator; got {item!r:.80}. Write "
            "`x = yield dist, estimator`."
        )
    dist, estimator = item
    if not isinstance(dist, Distribution):
        raise TypeError(checks.no_distribution(estimator.name, dist))
    variables = recognize(dist)
    refusal = estimator.refusal_of(variables)
    if refusal is not None:
        raise TypeError(refusal)
    if nodes and dist.batch_shape != nodes[-1].batch:
        raise ValueError(
            f"{estimator.name} needs a distribution of the batch shape {list(nodes[-1].batch)}, which the variables "
            f"before it have; got {list(dist.batch_shape)}. Build it from them, or use "
            f"dist.expand({list(nodes[-1].batch)}), or Independent to make dimensions part of one draw."
        )
    if not nodes:
        _particles("The first distribution", dist.batch_shape, setting)
    checks.possible(estimator.name, variables)
    if isinstance(estimator, ThroughPoints) and not estimator.adds_dimension:
        sent = estimator.one(variables, setting.generator)
        return _Node(estimator, None, Through(sent), None, dist.batch_shape), sent
    draw = estimator.draw(variables, setting.generator)
    relaxed = _relaxed_points(estimator, variables, draw)
    if not estimator.adds_dimension:
        if relaxed is not None or draw.probes is not None or draw.points.shape[0] != 1:
            raise ValueError(
                f"{estimator.name} evaluates f at several points, which need a dimension; got samples=None. Give a "
                f"number."
            )
        sent = draw.points.squeeze(0)
        return _Node(estimator, variables, draw, None, dist.batch_shape), sent if sent.requires_grad else sent.clone()
    parts = [part for part in (draw.points, relaxed, draw.probes) if part is not None]
    sent = torch.cat(parts)  # a copy, so that a program that writes into its variable does not reach the draw
    return _Node(estimator, variables, draw, relaxed, sent.shape[:1] + dist.batch_shape), sent


def _charge(cost: Any, nodes: list[_Node], before: list[Tensor]) -> None:
    """Add a cost to the last variable drawn."""
    if not isinstance(cost, Tensor):
        raise TypeError(f"A program returns a cost (a tensor) or nothing; got {cost!r:.80}.")
    costs = nodes[-1].costs if nodes else before
    if not nodes and before and cost.shape != before[0].shape:
        raise ValueError(
            f"Costs before the first variable need one shape; got {list(before[0].shape)} and {list(cost.shape)}. "
            f"Nothing is broadcast."
        )
    if nodes and cost.shape != nodes[-1].batch:
        raise ValueError(
            f"A cost after {nodes[-1].estimator.name} needs the batch shape at its place, {list(nodes[-1].batch)}; got "
            f"{list(cost.shape)}. Sum over the event, keep the dimension that samples=K adds on the left; nothing is "
            f"broadcast."
        )
    costs.append(cost)


def _finite(costs: list[Tensor]) -> None:
    """Refuse non-finite costs; those of one kind are looked at together."""
    kinds: dict[tuple[torch.Size, int], list[Tensor]] = {}
    for cost in costs:
        kinds.setdefault((cost.shape, cost.get_device()), []).append(cost)
    for alike in kinds.values():
        with torch.no_grad():
            together = torch.stack(alike)  # [t, *batch]
        if not inspectable(together) or together.is_cuda:
            checks.finite("A program", together, "raise")
            continue
        index = checks.first_nonfinite(together)
        if index is not None:
            checks.finite("A program", alike[index[0]], "raise")


def _total(costs: list[Tensor], after: Tensor | None) -> Tensor | None:
    terms = costs if after is None else [*costs, after]
    return functools.reduce(torch.add, terms) if terms else None


def _relaxed_points(estimator: Estimator[Any, Any], variables: Variables, draw: AnyDraw) -> Tensor | None:
    """Where `estimate` will evaluate f itself: found by letting it, with a cost that only notes the points."""
    if not estimator.calls_f:
        return None
    noted: list[Tensor] = []

    def note(points: Tensor) -> Tensor:
        noted.append(unwrapped(points))
        return points.new_zeros(points.shape[: 1 + len(variables.batch_shape)])

    zeros = draw.points.new_zeros(draw.points.shape[: 1 + len(variables.batch_shape)])
    with torch.no_grad(), _frozen(estimator, True):
        estimator.estimate(variables, draw, Costs(noise.promote(zeros), None, note))
    return torch.cat(noted).requires_grad_() if noted else None


def _tangent(name: str, relaxed: Tensor, costs: Tensor) -> Callable[[Tensor], Tensor]:
    """The cost as a function of the relaxed points that were sent: its value and first derivative there."""
    slopes: Tensor | None = None
    if costs.requires_grad:
        (slopes,) = torch.autograd.grad(costs.sum(), relaxed, retain_graph=True, allow_unused=True)
    if slopes is None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"{name} needs a cost that is differentiable in its variable; got one with no path to it. Use "
                f"ScoreFunction."
            )
        slopes = torch.zeros_like(relaxed)
    checks.finite_derivative(name, slopes)
    position = 0

    def evaluate(points: Tensor) -> Tensor:
        nonlocal position
        part = slice(position, position + points.shape[0])
        position += points.shape[0]
        moved = slopes[part] * (points - relaxed.detach()[part])
        return costs.detach()[part] + moved.reshape(*costs[part].shape, -1).sum(-1)

    return evaluate


@contextmanager
def _frozen(estimator: Estimator[Any, Any], frozen: bool) -> Iterator[None]:
    """Keep control variates as they are: the tangent has no second derivative to train them by."""
    if not (frozen and estimator.training):
        yield
        return
    training = [module for module in estimator.modules() if module.training]
    estimator.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
