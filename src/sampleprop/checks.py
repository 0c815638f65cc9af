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
from torch.distributions import Distribution

from sampleprop import graph, noise
from sampleprop.families import Bernoullis, Discrete, Integers, OneHots, Variables
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
    if isinstance(variables, takes):
        return None
    if isinstance(variables, Integers) and OneHots in takes:
        fix = "Use OneHotCategorical: the samples must be points of the simplex, not integers."
    elif isinstance(variables, Discrete):
        fix = "Use ScoreFunction, which takes any distribution."
    else:
        fix = "Use ScoreFunction for any distribution, or Pathwise for one with rsample."
    return f"{name} needs {kinds(takes)}; got {variables.kind}. {fix}"


def rsample_refusal(name: str, variables: Variables, instead: str) -> str | None:
    """Why an estimator cannot differentiate these samples with respect to φ, with the fix; None if it can."""
    if variables.is_discrete:
        return (
            f"{name} needs a continuous distribution; got {variables.kind}, whose samples have no derivative with "
            f"respect to φ. Use {instead}."
        )
    if not variables.dist.has_rsample:
        return f"{name} needs a distribution with rsample; got {variables.kind}, which has none. Use {instead}."
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
    return noise.promote(values)


def keep(name: str, kept: Tensor | None, costs: Tensor, whole: bool) -> None:
    """Require a mask of the costs' shape; refuse any mask where the samples make sense only together (`whole`)."""
    if kept is None:
        return
    if kept.shape != costs.shape or kept.dtype != torch.bool:
        raise ValueError(
            f"{name} needs keep of the costs' shape, [k, *batch] = {list(costs.shape)}, and bool; got "
            f"{list(kept.shape)}, {kept.dtype}. Pass keep=costs.isfinite(), say."
        )
    if whole:
        raise ValueError(
            f'{name} needs every cost: its samples make sense only together; got nonfinite="drop". Fix f, or use '
            "ScoreFunction, which can leave samples out."
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
    if shape == (k, *batch, 1):
        return "Remove the last dimension: return cost.squeeze(-1)."
    if event and shape == (k, *batch, *event):
        return f"Sum the cost over the event: return cost.sum({list(range(-len(event), 0))})."
    if shape[: len((k, *batch))] == (k, *batch):
        return "Sum the dimensions after the batch away."
    if len(shape) < len((k, *batch)) and batch and (not shape or shape == (k,)):
        return (
            "Either f reduces over the batch, and must keep it; or the batch dimensions of the distribution are parts "
            "of one draw: wrap the distribution in torch.distributions.Independent(q, 1)."
        )
    if sorted(shape) == sorted((k, *batch)):
        return "The dimensions are in another order: samples come first, then the batch."
    return "Keep the sample dimension first, then the batch; nothing is broadcast."


def _numbers(shape: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in shape)


def possible(name: str, variables: Variables) -> None:
    """Refuse a categorical variable all of whose classes are masked: there is nothing to draw."""
    if not isinstance(variables, Discrete):
        return
    if isinstance(variables, Bernoullis) and variables.dist._validate_args:
        return  # torch has looked for NaN already
    logits = variables.logits.detach()
    if not inspectable(logits):
        return
    if logits.is_cuda:
        _raise_later(
            ~logits.isnan().any(),
            f"{name} needs at least one possible class in each row of logits; in an earlier call all were -inf (or one "
            "was NaN). Leave one class unmasked.",
        )
        return
    # Normalized logits are at most 0, so their sum is NaN only where a whole row was -inf (or came as NaN).
    if math.isnan(logits.sum().item()) and bool(logits.isnan().any()):
        row = logits.isnan().nonzero()[0].tolist()[: max(logits.dim() - 1, 0)]
        raise ValueError(
            f"{name} needs at least one possible class in each row of logits; all are -inf (or one is NaN) at index "
            f"{row}. Leave one class unmasked."
        )


def unchanged(name: str, points: Tensor, version: int) -> None:
    """Refuse an f that wrote into its input: the estimator still needs the points."""
    if points._version != version:
        raise RuntimeError(f"{name} needs f to leave its input as it is; f wrote into it. Let f work on x.clone().")


class Path(NamedTuple):
    """Which path an estimator needs: from the costs to its points, and through which operations."""

    name: str
    points: Tensor
    allow_unused: bool = False
    allow_steps: bool = False


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
        gathered.append(Path(name, points, allow_unused, allow_steps))
    elif not graph.clear(costs, points.grad_fn):
        paths(costs, [Path(name, points, allow_unused, allow_steps)])


@contextmanager
def gathered_paths() -> Iterator[list[Path]]:
    """Gather what `path` would look for, so that `paths` finds all of it in one walk through one graph."""
    gathered: list[Path] = []
    token = _GATHERED.set(gathered)
    try:
        yield gathered
    finally:
        _GATHERED.reset(token)


def paths(costs: Tensor, wanted: Iterable[tuple[Any, ...]]) -> None:
    """Refuse costs whose graph does not lead to the points of each estimator, or only across a step."""
    if not inspectable(costs) or not torch.is_grad_enabled():
        return
    asked = {
        each.points.grad_fn: each
        for each in (Path(*fields) for fields in wanted)
        if each.points.grad_fn is not None and not (each.allow_unused and each.allow_steps)
    }
    if not asked:
        return
    found = graph.search(costs, asked)
    for node, why in found.flat.items():
        if not asked[node].allow_steps:
            raise RuntimeError(_across(asked[node].name, why))
    for node in found.unreached:
        if not asked[node].allow_unused:
            raise _no_path(asked[node].name)


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
    node = graph.node_of(points)
    if graph.clear(costs, node):
        return
    found = graph.search(costs, {node})
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
    node = graph.node_of(points)
    if graph.clear(values, node):
        return
    for why in graph.search(values, {node}).flat.values():
        raise RuntimeError(
            f"{name} needs a critic that is differentiable in x; got one whose path to x passes {why}, so the gradient "
            "for φ would be wrong. Replace the operation by a smooth one."
        )


def obstacle(costs: Tensor, points: Tensor) -> str | None:
    """What keeps a derivative of the costs from reaching the points, as a clause; None where nothing does."""
    if not points.requires_grad:
        return "no path to them"
    node = graph.node_of(points)
    if graph.clear(costs, node):
        return None
    found = graph.search(costs, {node})
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


def finite(name: str, costs: Tensor, policy: Nonfinite) -> tuple[Tensor, Tensor | None]:
    """Apply the policy for non-finite costs: the costs, and where to keep them (None for everywhere).

    Raises:
        ValueError: under "raise" with the first index; under "drop" where a batch element has no finite cost left.
    """
    if policy == "propagate" or not inspectable(costs):
        return costs, None
    if policy == "raise":
        if not costs.is_cuda and math.isfinite(costs.detach().sum().item()):
            return costs, None  # a finite sum proves finite terms in one pass
        _raise_nonfinite(name, costs.detach())
        return costs, None
    keep = costs.detach().isfinite()  # [k, *batch]
    empty = ~keep.any(0)
    if bool(empty.any()):
        raise ValueError(
            f"{name} needs a finite cost for each batch element; all are non-finite at batch index "
            f"{empty.nonzero()[0].tolist()}. Nothing is left to average: fix f, or the parameters that lead there."
        )
    return torch.where(keep, costs, 0.0), keep


def _raise_nonfinite(name: str, costs: Tensor) -> None:
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
    """Raise what earlier calls left, if it has arrived; leave this one to a later call."""
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

_KIND_NAMES: dict[Any, str] = {
    Variables: "any distribution",
    Discrete: "Bernoulli, OneHotCategorical or Categorical",
    Bernoullis: "Bernoulli",
    OneHots: "OneHotCategorical",
    Integers: "Categorical",
}
