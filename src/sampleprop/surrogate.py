"""Surrogates: tensors with the value of one function and the gradient of another.

`surrogate` attaches a given gradient to a value, `guarded` lets a pathwise gradient through once, `straight_through`
sends it to another tensor, `train` gives a control variate its own loss. The first three refuse the derivatives that
they would get wrong. They do so by a node in the graph of the gradient whose own backward raises. This node has every
tensor as an input that the gradient depends on, and so it also works behind a nonlinear encoder and under `torch.func`.
Eagerly, `guarded` and `straight_through` put this node there by a hook, which takes less time than a `Function`;
`torch.compile` and `torch.func` know no hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from sampleprop.tracing import Function, differentiable_backward, hook, hooks_allowed


def surrogate(
    name: str,
    value: Tensor,
    parameters: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
) -> Tensor:
    """Return `value` with `gradients` as its gradient with respect to `parameters`, besides the graph that it has.

    Args:
        name: the estimator, for the refusal.
        value: [*batch], attached to whatever the costs are attached to (θ, and φ where f depends on it directly).
        parameters: each [*batch, ...], attached to φ.
        gradients: one for each parameter, of its shape, without graph.

    Raises:
        RuntimeError: in a second backward pass, for φφ, φθ and θφ; θθ is right and allowed.
    """
    result: Tensor = _Surrogate.apply(name, value, 0, *parameters, *gradients)
    return result


def learning_surrogate(
    name: str,
    value: Tensor,
    parameter: Tensor,
    gradient: Tensor,
    learned: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Return what `surrogate` does, in whose backward pass the numbers of a control variate learn too.

    Args:
        name: the estimator, for the refusal.
        value: [*batch], as `surrogate` takes it.
        parameter: [*batch, ...], attached to φ.
        gradient: of the shape of the parameter, without graph.
        learned: each number that is learned, with the derivative with respect to it of the loss that it is to minimize,
            [*batch], without graph. As in `train`, this is weighted by the absolute value of what the result receives.
    """
    numbers, slopes = zip(*learned, strict=True) if learned else ((), ())
    result: Tensor = _Surrogate.apply(name, value, len(numbers), parameter, *numbers, gradient, *slopes)
    return result


def guarded(name: str, points: Tensor, made_from: Tensor | None = None) -> Tensor:
    """Return `points`, differentiable once: the second derivative through them raises instead of being wrong.

    Args:
        name: the estimator, for the refusal.
        points: a tensor; of its own, that nothing else uses, where `made_from` is given.
        made_from: the one tensor that they are a function of, besides constants. It saves a view of the points.
    """
    if torch.compiler.is_dynamo_compiling():  # torch itself refuses to differentiate a compiled backward pass
        return points
    if hooks_allowed():
        return _once(name, points.view_as(points), points) if made_from is None else _once(name, points, made_from)
    result: Tensor = _Guarded.apply(name, points)
    return result


def straight_through(name: str, hard: Tensor, soft: Tensor) -> Tensor:
    """Return `hard`, differentiable once: its derivative is that of `soft`, which may lack the first dimension."""
    if hooks_allowed():
        zero = soft - soft.detach()
        return _once(name, hard + (zero if zero.dtype == hard.dtype else zero.to(hard.dtype)), soft)
    result: Tensor = _StraightThrough.apply(name, hard, soft)
    return result


def _once(name: str, points: Tensor, tie: Tensor) -> Tensor:
    """`points`, with a hook that refuses the derivative of their gradient. It takes half as long as a `Function`.

    Args:
        name: the estimator, for the refusal.
        points: a tensor of their own, on which `tie` does not depend: else neither would ever be freed.
        tie: what they were made from.
    """
    if points.requires_grad:

        def refuse(gradient: Tensor) -> Tensor | None:
            return refused(name, gradient, tie) if torch.is_grad_enabled() else None

        hook(points, refuse)
    return points


def refused(name: str, gradient: Tensor, *ties: Tensor) -> Tensor:
    """Return the gradient, whose own derivative raises.

    Args:
        name: the estimator, for the refusal.
        gradient: what a backward pass returns.
        ties: what it depends on although autograd does not record it.
    """
    result: Tensor = _Refuse.apply(name, gradient, *ties)
    return result


def train(value: Tensor, loss: Tensor) -> Tensor:
    """Return `value`; in its backward pass `loss` receives the absolute value of what `value` receives.

    A control variate thus learns from the user's own backward pass, and it minimizes its loss even when the user
    maximizes.

    Args:
        value: [*batch].
        loss: [*batch], attached to the control variate's own parameters and to nothing else.
    """
    result: Tensor = _Train.apply(value, loss)
    return result


def unsqueeze_to(x: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size 1 until `x` has `ndim` of them."""
    missing = ndim - x.dim()
    if missing <= 1:
        return x.unsqueeze(-1) if missing else x
    return x.reshape(x.shape + (1,) * missing)


def needing(value: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The value, which depends on the other tensors by a zero of each; for the forward pass of compiled code.

    A compiler may run in the backward pass again what the value does not need. Noise that only the gradient needs would
    then be drawn twice: one draw in the costs, another one in what they are multiplied with.
    """
    for other in others:
        zero = 0 * other.reshape(-1)[:1].nan_to_num(0.0, 0.0, 0.0).sum()
        value = value + zero.to(value.dtype)
    return value


class _Surrogate(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, value: Tensor, learned: int, *tensors: Tensor) -> Tensor:
        if torch.compiler.is_dynamo_compiling():
            return needing(value, tensors[len(tensors) // 2 :])
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, value, ctx.learned, *tensors = inputs
        ctx.save_for_backward(value, *tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        value, *tensors = ctx.saved_tensors
        half = len(tensors) // 2
        ties, gradients = tensors[:half], tensors[half:]
        outputs = [unsqueeze_to(grad_output, g.dim()) * g for g in gradients[: half - ctx.learned]]
        if ctx.learned:
            weights = grad_output.abs()
            outputs += [(weights * slope).sum() for slope in gradients[half - ctx.learned :]]
        if differentiable_backward():
            outputs = [refused(ctx.name, g, value, *ties) for g in outputs]
            grad_output = refused(ctx.name, grad_output, *ties)
        return None, grad_output, None, *outputs, *(None,) * half


class _Guarded(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, points: Tensor) -> Tensor:
        return points.view_as(points)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, points = inputs
        ctx.save_for_backward(points)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        if differentiable_backward():
            grad_output = refused(ctx.name, grad_output, *ctx.saved_tensors)
        return None, grad_output


class _StraightThrough(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.view_as(hard)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, _, soft = inputs
        ctx.save_for_backward(soft)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, None, Tensor]:
        (soft,) = ctx.saved_tensors
        if differentiable_backward():
            grad_output = refused(ctx.name, grad_output, soft)
        gradient = grad_output if grad_output.dtype == soft.dtype else grad_output.to(soft.dtype)
        if gradient.dim() > soft.dim():
            gradient = gradient.squeeze(0) if len(gradient) == 1 else gradient.sum_to_size(soft.shape)
        return None, None, gradient


class _Train(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, loss: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return grad_output, grad_output.detach().abs()


class _Refuse(Function):
    """Identity whose backward raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, gradient: Tensor, *ties: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            f"{ctx.name} estimates first derivatives only; got a derivative of its gradient. Use ScoreFunction or "
            "Enumerate, which are right to any order, or Pathwise where the distribution allows it."
        )
