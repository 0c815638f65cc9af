"""Every shape and argument check, and its wording: who needs what, what came, what to do."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

from sampleprop import graph
from sampleprop.families import (
    Bernoullis,
    Discrete,
    Enumerable,
    Integers,
    LogLinears,
    OneHots,
    Other,
    Solutions,
    Structures,
    Variables,
    unwrap,
)
from sampleprop.families.parameters import origins as origins
from sampleprop.noise import promote
from sampleprop.tracing import inspectable

Nonfinite = Literal["raise", "drop", "propagate"]


def positive(name: str, argument: str, value: float, *, least: float = 0.0) -> None:
    """Refuse an argument that is not a finite number above 0 (at least `least`, if that is given)."""
    if not (math.isfinite(value) and value > 0 and value >= least):
        needed = f"at least {least:g}" if least else "above 0"
        raise ValueError(f"{name} needs {argument} {needed}; got {value}.")


def finite_number(name: str, argument: str, value: float) -> None:
    """Refuse an argument that is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} needs a finite {argument}; got {value}.")


def samples(
    name: str, value: int | None, *, least: int = 1, step: int = 1, optional: bool = False, argument: str = "samples"
) -> None:
    """Refuse a number of samples that the estimator cannot draw; None is one sample, where it is an option."""
    if value is None and optional and least == 1:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least or value % step:
        kind = "an even number" if step == 2 else "a whole number"
        raise ValueError(f"{name} needs {kind} of {argument}, at least {least}; got {argument}={value!r}.")


def no_distribution(name: str, dist: Any) -> str:
    """What to say of an argument that is no distribution."""
    return f"{name} needs a torch.distributions object; got {type(dist).__name__}. Pass Bernoulli(logits=...), say."


def kinds(takes: tuple[type[Variables], ...]) -> str:
    """The distributions of these kinds, as messages name them: "Bernoulli or OneHotCategorical"."""
    return " or ".join(_KIND_NAMES[kind] for kind in takes)


def kind_refusal(name: str, takes: tuple[type[Variables], ...], variables: Variables) -> str | None:
    """Why an estimator for variables of the kinds `takes` cannot take these, with the fix; None if it can."""
    if variables.contradiction is not None:
        return f"{name} needs a distribution whose samples follow its log_prob; got {variables.contradiction}."
    if isinstance(variables, Solutions) and Solutions not in takes:
        return (
            f"{name} needs a log-probability or the derivative of a sample; got {variables.kind}, which has neither. "
            "Use PerturbedScore for any f, IMLE for a differentiable one; or KSubset, LinearChain, SpanningTree or "
            "Matching."
        )
    if isinstance(variables, takes):
        return None
    if isinstance(variables.base, TransformedDistribution) and variables.is_discrete:
        inner = type(unwrap(variables.base.base_dist)[0]).__name__
        fix = (
            f"Give it the {inner} inside, and map its samples inside f: f(2 * b - 1) for spins of ±1, say. Or use "
            "ScoreFunction, which takes any distribution."
        )
    elif isinstance(variables, Integers) and OneHots in takes:
        fix = "Use OneHotCategorical: the samples must be points of the simplex, not integers."
    elif isinstance(variables, LogLinears):
        fix = (
            "Use ScoreFunction or UnorderedSet for any f; DoubleCV, MuProp or StraightThrough for a differentiable one."
        )
    elif isinstance(variables, Structures):
        why = "Its marginals have no closed form. " if LogLinears in takes else ""
        fix = f"{why}Use ScoreFunction, UnorderedSet or RaoBlackwellized; or KSubset, where only the set matters."
    elif isinstance(variables, Discrete):
        fix = "Use ScoreFunction, which takes any distribution."
    else:
        fix = "Use ScoreFunction for any distribution, or Pathwise for one with rsample."
    return f"{name} needs {kinds(takes)}; got {variables.kind}. {fix}"


def rsample_refusal(name: str, variables: Variables, instead: str, if_discrete: str = "") -> str | None:
    """Why an estimator cannot differentiate these samples with respect to φ, with the fix; None if it can.

    Args:
        name: the estimator.
        variables: its variables.
        instead: which estimator takes them.
        if_discrete: what to add to that where they are discrete.
    """
    if variables.is_discrete:
        return (
            f"{name} needs a continuous distribution; got {variables.kind}, whose samples have no derivative with "
            f"respect to φ. Use {instead}{if_discrete}."
        )
    if not variables.dist.has_rsample:
        return f"{name} needs a distribution with rsample; got {variables.kind}, which has none. Use {instead}."
    if variables.no_path is not None:
        return f"{name} needs an rsample that reparameterizes the distribution; got {variables.no_path}. Use {instead}."
    return None


def moving_refusal(name: str, variables: Variables, fix: str) -> str | None:
    """Why an estimator that uses the score cannot take these variables; None if their support does not move with φ."""
    if not variables.moving_support:
        return None
    return (
        f"{name} needs a support that does not move with the parameters; got {variables.kind}, whose score misses what "
        f"happens at the moving edge. {fix}"
    )


def points(name: str, variables: Variables | Distribution, given: Tensor) -> None:
    """Require points of the variables' shape, [k, *batch, *event], where they may have been drawn for others."""
    shape = (*variables.batch_shape, *variables.event_shape)
    if given.shape[1:] != shape:
        raise ValueError(
            f"{name} needs points [k, *batch, *event] = [k, {_numbers(shape)}] for this distribution; got "
            f"{list(given.shape)}. Combine with a distribution of the shape that proposed the draw."
        )


def costs(name: str, variables: Variables | Distribution, given: Tensor, values: Any) -> Tensor:
    """Require one cost for each point, [k, *batch]; return them in float32 at least.

    Raises:
        ValueError: for another shape, with the likely fix.
        TypeError: for complex costs, and for what is no tensor of numbers.
    """
    if not isinstance(values, Tensor):
        values = as_tensor(name, values, given.device)
    if values.is_complex():
        raise TypeError(f"{name} needs real costs; got {values.dtype}. Return the real part that is to be minimized.")
    shape, needed = values.shape, (given.shape[0], *variables.batch_shape)
    if shape != needed:
        points(name, variables, given)
        raise ValueError(
            f"{name} needs one cost for each point, shape [k, *batch] = {list(needed)}; f returned {list(shape)}. "
            + _shape_fix(tuple(shape), needed[0], needed[1:], tuple(variables.event_shape))
        )
    return promote(values)


def keep(name: str, kept: Tensor | None, costs: Tensor, can_drop: bool) -> None:
    """Require a mask of the costs' shape; refuse any mask where the rest would not estimate E[f | f is finite]."""
    if kept is None:
        return
    if kept.shape != costs.shape or kept.dtype != torch.bool:
        raise ValueError(
            f"{name} needs keep of the costs' shape, [k, *batch] = {list(costs.shape)}, and bool; got "
            f"{list(kept.shape)}, {kept.dtype}. Pass keep=costs.isfinite(), say."
        )
    droppable(name, can_drop)


def droppable(name: str, can_drop: bool) -> None:
    """Refuse to leave costs out where the rest would not estimate E[f | f is finite]."""
    if not can_drop:
        raise ValueError(
            f"{name} needs every cost: where x decides which costs are lost, the others alone give a wrong gradient; "
            'got nonfinite="drop". Fix f, or use ScoreFunction with its leave-one-out baseline, or Enumerate.'
        )


def two_kept(name: str, count: Tensor) -> None:
    """Refuse batch elements with fewer than two finite costs, [*batch]: one alone has nothing to be compared with."""
    if inspectable(count) and bool((count < 2).any()):
        raise ValueError(
            f"{name} needs two finite costs of each batch element to leave the others out; got fewer at batch index "
            f"{(count < 2).nonzero()[0].tolist()}. Draw more samples, or fix f."
        )


def own_draw(name: str, kind: type[tuple[Any, ...]], draw: Any) -> None:
    """Refuse a draw that another kind of estimator proposed: its samples may follow another distribution."""
    if not isinstance(draw, kind):
        got = f"{type(draw).__module__.rpartition('.')[2]}.{type(draw).__name__}"
        raise TypeError(
            f"{name} needs a draw of its own, since other estimators draw differently; got {got}. Combine with the "
            "estimator that proposed the draw."
        )


def probe_costs(name: str, variables: Variables, probes: Tensor, values: Any) -> Tensor:
    """Require the costs of a draw's probes, as `costs` does; return them without graph."""
    if values is None:
        raise ValueError(f"{name} needs the costs of its probes too; got none. Pass probe_costs=f(draw.probes).")
    points(name, variables, probes)
    return costs(name, variables, probes, values).detach()


def as_tensor(name: str, values: Any, device: torch.device) -> Tensor:
    """Costs that came from elsewhere (numpy, a list of numbers), copied: f may use its buffer again."""
    if isinstance(values, list | tuple) and any(isinstance(value, Tensor) for value in values):
        raise TypeError(f"{name} needs the costs as one tensor; f returned {values!r:.60}. Join them with torch.stack.")
    try:
        return torch.tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} needs the costs as one tensor or array of numbers; f returned {values!r:.60}. Return the costs, "
            "[k, *batch], from f."
        ) from error


def _shape_fix(shape: tuple[int, ...], k: int, batch: tuple[int, ...], event: tuple[int, ...]) -> str:
    needed = (k, *batch)
    if shape == (*needed, 1):
        return "Remove the last dimension: return cost.squeeze(-1)."
    if shape[: len(needed)] == needed:
        further = len(shape) - len(needed)
        over = "cost over the event" if shape == (*needed, *event) else "dimensions after the batch away"
        total = f"Sum the {over}: return cost.sum({list(range(-further, 0))})."
        return f"{total} {_outputs(batch, shape[-1])}" if further == 1 else total
    if len(shape) < len(needed) and needed[: len(shape)] == shape:
        lost = len(needed) - max(1, len(shape))
        parts = "batch dimension of the distribution holds" if lost == 1 else f"{lost} batch dimensions hold"
        return (
            f"Either the last {parts} parts of one draw: wrap the distribution in "
            f"torch.distributions.Independent(q, {lost}). Or f reduces over the batch, and must keep it."
        )
    if sorted(shape) == sorted(needed):
        return "The dimensions are in another order: samples come first, then the batch."
    return "Keep the sample dimension first, then the batch; nothing is broadcast."


def _outputs(batch: tuple[int, ...], count: int) -> str:
    """How to get a gradient for each of several outputs of f."""
    order = ".movedim(-1, 1)" if batch else ""
    return (
        f"If its {count} entries are outputs, each with a gradient of its own, give each a batch row: "
        f"dist.expand([{_numbers((count, *batch))}]), and return cost.diagonal(dim1=1, dim2=-1){order}."
    )


def _numbers(shape: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in shape)


def possible(name: str, variables: Variables) -> None:
    """Refuse bits whose logits are NaN, and classes or structures all of which are masked: nothing can be drawn."""
    if isinstance(variables, Structures) and not variables.base._validate_args:  # else it has looked already
        variables.base.require_possible()
    if not isinstance(variables, Discrete) or variables.base._validate_args:
        return  # torch has looked for NaN already
    logits = variables.logits.detach()
    if not inspectable(logits):
        return
    if logits.is_cuda:
        _raise_later(~logits.isnan().any(), f"{name} needs {_nothing_to_draw(variables).format(' in an earlier call')}")
        return
    # Normalized logits are at most 0, so their sum is NaN only where a whole row was -inf (or came as NaN).
    if math.isnan(logits.sum().item()) and bool(logits.isnan().any()):
        index = logits.isnan().nonzero()[0].tolist()
        row = index if isinstance(variables, Bernoullis) else index[:-1]
        raise ValueError(f"{name} needs {_nothing_to_draw(variables).format(f' at index {row}')}")


def _nothing_to_draw(variables: Discrete) -> str:
    if isinstance(variables, Bernoullis):
        return "bits whose logits are numbers; got NaN{}. Look for the operation that made it NaN."
    return (
        "at least one possible class in each row of logits; all are -inf (or one is NaN){}. Leave one class unmasked."
    )


def repeated(costs: Tensor, again: Tensor) -> None:
    """Refuse an f that gives other costs when the backward pass evaluates it again: its gradient would be of those."""
    tolerance = 1e3 * torch.finfo(costs.dtype).eps if costs.is_floating_point() else 0.0
    if not torch.allclose(costs, again, rtol=tolerance, atol=tolerance * float(costs.abs().max()), equal_nan=True):
        raise RuntimeError(
            "expect with chunk=... needs an f that gives the same costs when the backward pass evaluates it again; got "
            "others. A parameter of f was changed in between, or f has a state. Call backward() before "
            "optimizer.step(), or leave chunk out."
        )


def scored(name: str, variables: Variables, log_prob: Tensor) -> None:
    """Refuse a log-probability without a path to a parameter that is to get a gradient: it would get none.

    Where the class is known, a graph is enough; else each parameter that the distribution names is looked for.
    """
    if not inspectable(log_prob) or not torch.is_grad_enabled():
        return
    if log_prob.requires_grad:
        if variables.plain:
            return
        try:
            named = variables.parameters
        except TypeError:
            return
        nodes = {key: _views(p) for key, p in named.items() if p.requires_grad}
        unreached = graph.search(log_prob, {node for views in nodes.values() for node in views}).unreached
        missing = ", ".join(key for key, views in nodes.items() if unreached.issuperset(views))
        if not missing:
            return
    elif not variables.attached:
        return
    else:
        missing = "φ"
    raise RuntimeError(
        f"{name} needs a log_prob that autograd can follow to the parameters; that of {variables.kind} has no path to "
        f"{missing}, which would get no gradient. Use Pathwise if the samples move with it, write log_prob in torch "
        "without detach, or detach the parameter."
    )


def _views(x: Tensor) -> list[torch.autograd.graph.Node]:
    """The node of a tensor, and those of the tensors that it is a view of: a distribution may use either."""
    found = [graph.node_of(x)]
    while found[-1].name().startswith(_VIEWS) and (above := found[-1].next_functions[0][0]) is not None:
        found.append(above)
    return found


def countable(name: str, variables: Variables, points: Tensor) -> None:
    """Refuse counts so large that the next one is the same floating-point number."""
    if isinstance(variables, Discrete) or not points.is_floating_point() or not points.numel():
        return
    if not inspectable(points):
        return
    largest, limit = float(points.max()), 2 / torch.finfo(points.dtype).eps
    if largest >= limit:
        raise ValueError(
            f"{name} needs counts below {limit:.3g}, from where on {points.dtype} does not tell neighbours apart; got "
            f"{largest:.3g}. Use float64, or ScoreFunction."
        )


def unchanged(name: str, points: Tensor, version: int) -> None:
    """Refuse an f that wrote into its input: the estimator still needs the points."""
    if points._version != version:
        raise RuntimeError(f"{name} needs f to leave its input as it is; f wrote into it. Let f work on x.clone().")


class Path(NamedTuple):
    """Which path an estimator needs: from the costs to its points, and through which operations.

    Where a transform of the distribution keeps what it made the points from, a path to that is as good.
    """

    name: str
    points: Tensor
    allow_unused: bool = False
    allow_steps: bool = False
    origins: tuple[Tensor, ...] = ()

    @property
    def nodes(self) -> list[torch.autograd.graph.Node]:
        """Those of the points and of their origins."""
        if not self.origins:
            return [] if (node := self.points.grad_fn) is None else [node]
        return [x.grad_fn for x in (self.points, *self.origins) if x.grad_fn is not None]


def path(name: str, variables: Variables, costs: Tensor, points: Tensor, allow_unused: bool, allow_steps: bool) -> None:
    """Refuse points or a cost that autograd cannot follow back to φ, where its gradient would be silently wrong."""
    if not inspectable(costs) or not torch.is_grad_enabled():
        return
    if points.grad_fn is None:
        if not variables.attached:
            return
        raise RuntimeError(
            f"{name} needs points that are attached to φ; got a draw made under no_grad, or saved and loaded, so the "
            "gradient for φ would be zero. Propose with gradients on, or use ScoreFunction, whose draws are plain "
            "numbers."
        )
    if allow_unused and allow_steps:
        return
    gathered = _GATHERED.get()
    if gathered is not None:
        gathered.append(Path(name, points, allow_unused, allow_steps, origins(variables.dist, points)))
    elif not graph.clear(costs, points.grad_fn):
        paths(costs, [Path(name, points, allow_unused, allow_steps, origins(variables.dist, points))])


@contextmanager
def gathered_paths() -> Iterator[list[Path]]:
    """Gather what `path` would look for, so that `paths` finds all of it in one walk through one graph."""
    gathered: list[Path] = []
    token = _GATHERED.set(gathered)
    try:
        yield gathered
    finally:
        _GATHERED.reset(token)


def paths(costs: Tensor, wanted: Iterable[Path]) -> None:
    """Refuse costs whose graph does not lead to the points of each estimator, or only across a step."""
    if not inspectable(costs) or not torch.is_grad_enabled():
        return
    asked = [(each, each.nodes) for each in wanted if not (each.allow_unused and each.allow_steps)]
    targets = {node for _, nodes in asked for node in nodes}
    if not targets:
        return
    found = graph.search(costs, targets)
    if not (found.flat or found.unreached):
        return
    for each, nodes in asked:
        across = next((found.flat[node] for node in nodes if node in found.flat), None)
        if across is not None and not each.allow_steps:
            raise RuntimeError(_across(each.name, across))
        if nodes and not each.allow_unused and found.unreached.issuperset(nodes):
            raise _no_path(each.name)


def _no_path(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} needs a cost that is differentiable in x; got one with no path to x, so the gradient for φ would be "
        "zero. Use ScoreFunction for a black-box f, do not detach x or leave torch inside f, or, if f may ignore x, "
        f"say so: {name}(allow_unused=True)."
    )


def _across(name: str, why: str) -> str:
    return (
        f"{name} needs a cost that is differentiable in x; got one whose path to x passes {why}, so the gradient for φ "
        "would be wrong. Use ScoreFunction for a cost with steps, replace the operation by a smooth one, or, if the "
        f"derivative of the rest is what you want, say so: {name}(allow_steps=True)."
    )


def relaxed_path(name: str, costs: Tensor, points: Tensor, allow_steps: bool = False) -> None:
    """Refuse costs at relaxed points whose derivative autograd cannot follow back to them: it would be wrong."""
    if not (inspectable(costs) and points.requires_grad):
        return
    found = graph.look(costs, graph.node_of(points))
    if found.unreached:
        raise RuntimeError(
            f"{name} needs a cost that is differentiable in x; got one with no path to x, so its derivative would be "
            "zero and the gradient for φ wrong. Use ScoreFunction for a black-box f, and do not detach x or leave "
            "torch inside f."
        )
    for why in found.flat.values():
        if not allow_steps:
            raise RuntimeError(_across(name, why))


def critic_path(name: str, values: Tensor, points: Tensor) -> None:
    """Refuse a critic with a step: its values and its derivative do not belong together. It may ignore the points."""
    if not (inspectable(values) and points.requires_grad):
        return
    for why in graph.look(values, graph.node_of(points)).flat.values():
        raise RuntimeError(
            f"{name} needs a critic that is differentiable in x; got one whose path to x passes {why}, so the gradient "
            "for φ would be wrong. Replace the operation by a smooth one."
        )


def obstacle(costs: Tensor, points: Tensor, dist: Distribution | None = None) -> str | None:
    """What keeps a derivative of the costs from reaching the points, as a clause; None where nothing does."""
    if not points.requires_grad:
        return "no path to them"
    found = graph.look(costs, graph.node_of(points))
    if found.unreached and dist is not None and (made_from := origins(dist, points)):
        found = graph.search(costs, {graph.node_of(x) for x in made_from})
        if len(found.unreached) < len(made_from):
            found = found._replace(unreached=set())
    if found.unreached:
        return "no path to them"
    return next((f"a path that passes {why}" for why in found.flat.values()), None)


def finite_derivative(name: str, derivative: Tensor) -> None:
    """Refuse a derivative of f that is not finite: it would enter a control variate, and so all of φ's gradient."""
    if not inspectable(derivative) or derivative.is_cuda:
        return
    index = first_nonfinite(derivative)
    if index is not None:
        raise ValueError(
            f"{name} needs a finite derivative of f with respect to x; got {derivative[tuple(index)].item()} at "
            f"[sample, *batch, *event] = {index}. "
            'Fix f there (√0, say), or pass nonfinite="propagate" to let it through.'
        )


def finite_critic(name: str, critic: Tensor, by_points: Tensor) -> None:
    """Refuse a critic that overflows: it would make φ's gradient NaN."""
    for x in (critic.detach(), by_points.detach()):
        if inspectable(x) and not x.is_cuda and first_nonfinite(x) is not None:
            raise ValueError(
                f"{name} needs a critic that is finite, with a finite derivative, at the samples; got one that is not. "
                "Scale the samples inside the critic, or use ScoreFunction."
            )


def without_temperature(values: Tensor, log_temperature: Tensor) -> None:
    """Refuse an f at relaxed points that itself uses the temperature that learns: its own part would be lost."""
    if not (inspectable(values) and values.requires_grad and log_temperature.is_leaf):
        return
    if not graph.search(values, {graph.node_of(log_temperature)}).unreached:
        raise RuntimeError(
            "A temperature that learns needs an f that does not use it; got one that does, and that part of its "
            "derivative would be lost. Let f use temperature.detach(), or keep the temperature as it is: "
            "log_temperature.requires_grad_(False)."
        )


def finite_by_temperature(derivative: Tensor, cotangent: Tensor) -> None:
    """Refuse a derivative of the variance with respect to log τ that is not finite: τ would stay NaN from there on.

    Args:
        derivative: [*batch].
        cotangent: what it was computed from; where that is not finite, the gradient itself has told so.
    """
    if not inspectable(derivative) or 0 in derivative.shape:
        return
    if not derivative.is_cuda and math.isfinite(derivative.sum().item()):
        return
    right = derivative.isfinite().all() | ~cotangent.isfinite().all()
    said = (
        "A temperature that learns needs finite second derivatives of f between the outcomes; got NaN or infinite ones"
        "{}. Fix f where the relaxed points are 0 or 1 in floating point, start with a larger temperature, or keep it "
        "as it is: log_temperature.requires_grad_(False)."
    )
    if derivative.is_cuda:
        _raise_later(right, said.format(" in an earlier call"))
    elif not bool(right):
        raise ValueError(said.format(f" at batch index {first_nonfinite(derivative)}"))


def finite(
    name: str, costs: Tensor, policy: Nonfinite, variables: Variables | None = None
) -> tuple[Tensor, Tensor | None]:
    """Apply the policy for non-finite costs: the costs, and where to keep them (None for everywhere).

    The message names the variables' part in it, if they are given.

    Raises:
        ValueError: under "raise" with the first index; under "drop" where a batch element has no finite cost left.
    """
    if policy == "propagate" or not inspectable(costs):
        return costs, None
    if policy == "raise":
        if surely_finite(costs):
            return costs, None
        _raise_nonfinite(name, costs.detach(), variables)
        return costs, None
    keep = costs.detach().isfinite()  # [k, *batch]
    empty = ~keep.any(0)
    if bool(empty.any()):
        raise ValueError(
            f"{name} needs a finite cost for each batch element; all are non-finite at batch index "
            f"{empty.nonzero()[0].tolist()}. Nothing is left to average: fix f, or the parameters that lead there."
        )
    return torch.where(keep, costs, 0.0), keep


def surely_finite(costs: Tensor) -> bool:
    """Whether a finite sum proves in one pass that no term is NaN or infinite; on a GPU the host does not wait."""
    if costs.is_cuda:
        return False
    fixed = costs.detach() if costs.requires_grad and costs.numel() != 1 else costs
    return math.isfinite((fixed if fixed.numel() == 1 else fixed.sum()).item())


def _raise_nonfinite(name: str, costs: Tensor, variables: Variables | None) -> None:
    if costs.is_cuda:
        _raise_later(
            costs.isfinite().all(),
            f'{name} needs finite costs; an earlier call had non-finite ones. Fix f, or pass nonfinite="drop" or '
            '"propagate".',
        )
        return
    index = first_nonfinite(costs)
    if index is not None:
        raise ValueError(
            f"{name} needs finite costs; f returned {costs[tuple(index)].item()} at [sample, *batch] = {index}. "
            'Fix f, or pass nonfinite="drop" to leave such samples out, or nonfinite="propagate" to let them through.'
            + ("" if variables is None else _inverse_advice(variables.dist))
        )


def _inverse_advice(dist: Distribution) -> str:
    """What to do where f asks a transformed distribution for the log-probability of points at the edge."""
    while isinstance(dist, Independent):
        dist = dist.base_dist
    if not isinstance(dist, TransformedDistribution) or all(t.with_cache(0) is not t for t in dist.transforms):
        return ""
    return (
        " If f calls log_prob of this distribution, the inverse of a transform is infinite for points that were "
        "rounded to the edge: build it with a cache, TanhTransform(cache_size=1), say. Dropping these points would be "
        "a bias."
    )


def first_nonfinite(x: Tensor, keep: Tensor | None = None) -> list[int] | None:
    """The first index at which `x` is NaN or infinite (and `keep` True), or None. The host waits for the device."""
    # A finite sum proves finite terms in one pass; only a non-finite one asks for the exact test.
    if math.isfinite(x.sum().item()):
        return None
    wrong = ~x.isfinite() if keep is None else ~x.isfinite() & keep
    found: list[list[int]] = wrong.nonzero()[:1].tolist()
    return found[0] if found else None


class _Deferred(NamedTuple):
    """A flag on its way from the device: reading it at once would make the host wait."""

    flag: Tensor
    arrived: Callable[[], bool]
    message: str


_DEFERRED: deque[_Deferred] = deque()


def _raise_later(flag: Tensor, message: str) -> None:
    """Raise what earlier calls left, if it has arrived; leave this one to a later call.

    While a CUDA graph is captured nothing is looked at: a replay runs no Python, and the capture forbids questions.
    """
    if torch.cuda.is_current_stream_capturing():
        return
    while _DEFERRED and _DEFERRED[0].arrived():
        deferred = _DEFERRED.popleft()
        if not bool(deferred.flag):
            _DEFERRED.clear()
            raise ValueError(f"{deferred.message} (Found late, so as not to make the host wait for the device.)")
    on_host = flag.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    _DEFERRED.append(_Deferred(on_host, event.query, message))


_GATHERED: ContextVar[list[Path] | None] = ContextVar("gathered paths", default=None)

_VIEWS = ("Alias", "Expand", "Select", "Slice", "Squeeze", "Unsqueeze", "View")
_KIND_NAMES: dict[Any, str] = {
    Variables: "any distribution",
    Enumerable: "Bernoulli, OneHotCategorical, Categorical or a structure (KSubset, say)",
    LogLinears: "a structure with known marginals (KSubset, say)",
    Solutions: "PerturbAndMAP",
    Structures: "a structure (KSubset, say)",
    Discrete: "Bernoulli, OneHotCategorical or Categorical",
    Bernoullis: "Bernoulli",
    OneHots: "OneHotCategorical",
    Integers: "Categorical",
    Other: "a distribution other than Bernoulli, OneHotCategorical and Categorical",
}
