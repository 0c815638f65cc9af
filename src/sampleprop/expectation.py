"""`expect`: recognize the distribution, draw, call f, check, estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, parallel
from sampleprop.chunks import chunked
from sampleprop.costs import Costs, Group
from sampleprop.estimator import Estimator
from sampleprop.estimators.exact.enumerate import Enumerate
from sampleprop.estimators.pathwise.pathwise import Pathwise
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.estimators.structured.perturbed_score import PerturbedScore
from sampleprop.families import Enumerable, Solutions, Variables, recognize
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import constant_when_compiled, hook, inspectable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TINY_SUPPORT = 16


def expect(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimator: Estimator[Any, Any] | None = None,
    *,
    context: Tensor | None = None,
    generator: Generator | None = None,
    nonfinite: checks.Nonfinite = "raise",
    process_group: ProcessGroup | None = None,
    chunk: int | None = None,
) -> Tensor:
    r"""Estimate an expectation, with gradients for the parameters of the cost and of the distribution.

    .. math:: L(\theta, \phi) = \mathbb{E}_{x \sim p_\phi}[f_\theta(x)]

    The value is an estimate of L. Its backward pass estimates :math:`\nabla_\theta L` by the average of
    :math:`\nabla_\theta f` over true samples, and :math:`\nabla_\phi L` by the estimator.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch]. The cost of a point may depend on that point only. f
            is called once for all points, and once more if the estimator has further points.
        dist: p_φ, any `torch.distributions` object. Each batch element is an expectation of its own. `Independent(q,
            n)` makes n batch dimensions parts of one draw.
        estimator: how to estimate :math:`\nabla_\phi L`. None chooses an unbiased one: `Enumerate` for up to 16 joint
            states; else `Pathwise` if the distribution has `rsample` and f is differentiable in x; else `ScoreFunction`
            with its leave-one-out baseline, or `PerturbedScore` for a solver, and f is called a second time. f counts
            as not differentiable if it leaves torch, or has an operation without a useful derivative (round, sign) on
            the path from x. A jump that comes from a comparison cannot be seen here; `check` finds it.
        context: [\*batch, ...], given to learned baselines and critics.
        generator: the source of all noise; the same state gives the same result.
        nonfinite: what to do with NaN and infinite costs. "raise" raises an error with the index (on CUDA at the next
            call, so that the host need not wait). "propagate" accepts them, and the result is not finite. "drop" leaves
            them out, and estimates the value and gradient of E[f | f is finite]. This works for `Enumerate`, and for
            `ScoreFunction` with its leave-one-out baseline, which needs two finite costs of each batch element. Costs
            are not checked under `torch.compile` and `torch.func`.
        process_group: ranks that draw further samples of the same batch elements. Each draws the same number, with its
            own noise. Their costs form one leave-one-out group. The average over the ranks, of the results and of the
            gradients, is what one process would have with all samples. For `ScoreFunction` only; other estimators are
            right on several ranks without it. Each rank needs a finite cost for each batch element.
        chunk: the largest number of points that f gets at once, at least 1; None for all. The memory of f then does not
            grow with the number of points. The intermediate results of f are not kept, and the backward pass evaluates
            f again, piece by piece, with the same random numbers of torch's own generator. If f has a gradient, this
            costs one more forward pass. On the CPU the C library may hold on to freed blocks below 32 MB; larger chunks
            help, or its setting ``MALLOC_MMAP_THRESHOLD_``.

    Returns:
        [\*batch]. Reduce it to a loss, for example by `expect(...).mean()`.

    Raises:
        TypeError: when the estimator does not take the distribution, or no process group.
        ValueError: for costs of another shape, and for non-finite costs.
        RuntimeError: when f writes into its input, when a pathwise cost has no path to x or a step on it, and when
            ranks share noise.

    Example:
        >>> import torch, sampleprop as sp
        >>> from torch.distributions import Bernoulli, Independent
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = Independent(Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: x.sum(-1), q, sp.Enumerate()).backward()
        >>> logits.grad
        tensor([0.2500, 0.2500, 0.2500])
    """
    if nonfinite not in ("raise", "drop", "propagate"):
        raise ValueError(f'expect needs nonfinite="raise", "drop" or "propagate"; got {nonfinite!r}.')
    if chunk is not None:
        checks.samples("expect", chunk, argument="points to a chunk")
        f = chunked(f, chunk)
    if not (estimator is None or _estimates(type(estimator))):
        raise TypeError(f"expect needs an estimator object; got {estimator!r}. Pass sp.ScoreFunction(), say.")
    if process_group is not None and not (estimator is not None and estimator.grouped):
        raise TypeError(
            f"expect needs ScoreFunction where ranks share their samples; got {estimator!r} and a process_group. Leave "
            "process_group out: each rank estimates by itself, and the average over the ranks is right."
        )
    eager = not torch.compiler.is_dynamo_compiling()
    name = "expect" if estimator is None else estimator.name
    if not isinstance(dist, Distribution):
        raise TypeError(checks.no_distribution(name, dist))
    variables = recognize(dist)
    for chosen in _defaults(variables, nonfinite) if estimator is None else (estimator,):
        name = chosen.name
        if nonfinite == "drop":
            checks.droppable(name, chosen.can_drop)
        tried = estimator is None and isinstance(chosen, Pathwise)
        refusal = None if tried else chosen.refusal_of(variables)  # `_defaults` has asked
        if refusal is not None:
            raise TypeError(refusal)
        if eager:
            checks.possible(name, variables)
        draw = chosen.draw(variables, generator)
        if process_group is not None and eager:
            parallel.check_streams(generator, process_group=process_group, device=draw.points.device)
        try:
            values = _call(f, draw.points, name, copy=eager and (chosen.reads_points or _may_be_shared(variables)))
        except (RuntimeError, TypeError, BufferError) as error:
            if tried and not isinstance(error, torch.OutOfMemoryError):
                continue  # numpy, say, takes no points that are attached to φ
            raise
        if not tried or _differentiable(draw.points, values, dist):
            break
    costs, keep = checks.costs(name, variables, draw.points, values), None
    if eager:
        costs = costs if costs.requires_grad else costs.clone()  # f may use its buffer again, for the probes
        costs, keep = checks.finite(name, costs, nonfinite, variables)
    if keep is not None and _dropped(keep, process_group):
        # Once more, at kept points only: what a bad cost was made of would give θ the gradient 0 * NaN.
        costs = checks.costs(name, variables, draw.points, _call(f, _kept(draw.points, keep), name))
    probe_costs = None
    if draw.probes is not None:
        with torch.set_grad_enabled(False):  # no_grad takes twice as long
            probe_costs = checks.costs(name, variables, draw.probes, _call(f, draw.probes, name, copy=False))
            if nonfinite != "propagate":
                checks.finite(name, probe_costs, "raise")

    def relaxed_f(points: Tensor) -> Tensor:
        values = checks.costs(name, variables, points, _call(f, points, name))
        checks.relaxed_path(name, values, points, chosen.allow_steps)
        if nonfinite != "propagate":
            checks.finite(name, values, "raise")
            if points.requires_grad and inspectable(points):
                hook(points, lambda derivative: checks.finite_derivative(name, derivative))
        return values

    group = None if process_group is None else Group(process_group=process_group)
    answered = Costs(costs, probe_costs, relaxed_f, context, keep, group)
    return chosen.estimate(variables, draw, answered)


@constant_when_compiled
def _estimates(kind: type) -> bool:
    """Whether this is a class of estimators; `issubclass` would call the metaclass."""
    return Estimator in kind.__mro__


def _call(f: Callable[[Tensor], Any], points: Tensor, name: str, copy: bool = True) -> Any:
    if torch.compiler.is_dynamo_compiling():
        return f(points)
    # A black box may write into what it gets by ways that torch does not count, so it gets a copy of what is read
    # again. Probes never are.
    given = points.clone() if copy and not points.requires_grad else points
    version = None if given.is_inference() else given._version
    try:
        values = f(given)
    except Exception as error:
        error.add_note(f"This came from f, called by {name} with points of shape {list(points.shape)}.")
        if points.requires_grad:
            error.add_note(
                "An f that leaves torch, or is not differentiable, needs a score function: sp.ScoreFunction()."
            )
        raise
    if version is not None:
        checks.unchanged(name, given, version)
    return values


def _may_be_shared(variables: Variables) -> bool:
    """Whether a sampler that is not ours may hand out a tensor that it keeps: a table, say, or a parameter."""
    return not variables.plain or isinstance(variables, Solutions)


def _dropped(keep: Tensor, process_group: ProcessGroup | None) -> bool:
    """Whether a cost is left out, on any of the ranks: f may contain collectives, which all ranks must enter."""
    left_out = ~keep.all()
    return bool(left_out if process_group is None else parallel.total(left_out.to(torch.int64), process_group))


def _kept(points: Tensor, keep: Tensor) -> Tensor:
    """The points, with the first one that is kept in place of those that are not."""
    first = unsqueeze_to(keep.to(torch.uint8).argmax(0, keepdim=True), points.dim())  # [1, *batch, 1...]
    return torch.where(unsqueeze_to(keep, points.dim()), points, points.take_along_dim(first, 0))


def _defaults(variables: Variables, nonfinite: checks.Nonfinite) -> Iterator[Estimator[Any, Any]]:
    """Estimators that are unbiased, the least noisy first; the last one takes any f."""
    if isinstance(variables, Enumerable) and variables.support_size <= TINY_SUPPORT:
        yield Enumerate()
    pathwise = Pathwise(allow_unused=True, allow_steps=True)  # `_differentiable` looks
    if nonfinite != "drop" and pathwise.refusal_of(variables) is None:
        yield pathwise
    yield PerturbedScore() if isinstance(variables, Solutions) else ScoreFunction()


def _differentiable(points: Tensor, values: Any, dist: Distribution) -> bool:
    """Whether the gradient through the points is right for this f, as far as the graph of its values shows."""
    if not points.requires_grad:
        return True
    return isinstance(values, Tensor) and inspectable(values) and checks.obstacle(values, points, dist) is None
