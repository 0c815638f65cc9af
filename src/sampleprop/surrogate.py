"""One value, another gradient: the autograd functions behind every estimator.

`surrogate` attaches a given gradient to a value, `guarded` lets a pathwise gradient through once, `train` hands a
control variate its own loss. Each of the first two refuses the derivatives that it would get wrong, by a node in
the graph of the gradient whose own backward raises: the refusal stands also behind a nonlinear encoder and under
`torch.func`, because the node is tied to what the gradient really depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from sampleprop.discrete import Discrete


def surrogate(name: str, value: Tensor, parameters: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> Tensor:
    """Return `value` with `gradients` as its derivative by `parameters`, besides the graph it has already.

    Args:
        name: the estimator, for the refusal.
        value: [*batch], attached to whatever the costs are attached to (θ, and φ where f depends on it directly).
        parameters: each [*batch, ...], attached to φ.
        gradients: one for each parameter, of its shape, without graph.

    Raises:
        RuntimeError: in a second backward pass, for φφ, φθ and θφ; θθ is right and allowed.
    """
    result: Tensor = _apply(_Surrogate, name, value, len(parameters), *parameters, *gradients)
    return result


def score_surrogate(known: Discrete, points: Tensor, costs: Tensor, b: Tensor | None, weights: Tensor | None) -> Tensor:
    """Return the average of `costs`, with the derivative of average((costs - b) □ + b) to every order.

    □ = exp(log p - stop(log p)) is DiCE's box. For the discrete families the first derivative is written out, which spares
    the log-probabilities and their graph.

    Args:
        known: p_φ, attached to φ.
        points: [k, *batch, *event].
        costs: [k, *batch], attached to θ.
        b: [k, *batch], without graph, or None for 0.
        weights: [k, *batch], summing to 1 over the samples, or None for equal ones.
    """
    result: Tensor = _apply(_Score, known.logits, costs, b, points, weights, known)
    return result


def guarded(name: str, points: Tensor) -> Tensor:
    """Return `points`, differentiable once: the second derivative through them raises instead of being wrong."""
    result: Tensor = _apply(_Guarded, name, points)
    return result


def train(value: Tensor, loss: Tensor) -> Tensor:
    """Return `value`; in its backward pass `loss` receives the absolute value of what `value` receives.

    So a control variate learns from the user's own backward pass, and learns the right way when the user maximizes.

    Args:
        value: [*batch].
        loss: [*batch], attached to the control variate's own parameters and to nothing else.
    """
    result: Tensor = _apply(_Train, value, loss)
    return result


def vjp(function: Callable[..., Tensor], *primals: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Return function(*primals), and the pullback from a cotangent of its shape to one for each primal.

    Under `torch.no_grad()` the results have no graph: an f called in here leaves nothing to θ. Otherwise they are
    attached to what the function is attached to. It nests. Eagerly this is `torch.autograd.grad`, which is faster than
    `torch.func.vjp`; where only the latter works (compiled, or under `torch.func`), it is that.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        with _AnySize() if torch.compiler.is_compiling() else nullcontext():
            value, pull = torch.func.vjp(function, *primals)  # type: ignore[misc]
        return value, pull
    if torch.is_inference_mode_enabled():  # no backward pass can follow, so no derivative is needed
        return function(*primals), lambda cotangent: tuple(torch.zeros_like(p) for p in primals)
    attached = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view, so that only what goes through the argument counts, not the same tensor met elsewhere.
        inputs = [p.view_as(p) if attached and p.requires_grad else p.detach().requires_grad_() for p in primals]
        output = function(*inputs)

    def backward(cotangent: Tensor) -> tuple[Tensor, ...]:
        if not output.requires_grad:
            return tuple(torch.zeros_like(p) for p in primals)
        return torch.autograd.grad(
            output, inputs, cotangent, create_graph=attached, retain_graph=attached, materialize_grads=True
        )

    return output if attached else output.detach(), backward


class _AnySize(TorchFunctionMode):
    """Keeps sizes symbolic: under `torch.func`, a compiled linear layer with a bias fixes those of an input of three dimensions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and len(args) == 3 and args[2] is not None and args[0].dim() == 3:
            result = F.linear(args[0], args[1])
            return result + args[2].to(result.dtype)
        return func(*args, **(kwargs or {}))


def value_and_grad(function: Callable[..., Tensor], *primals: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return function(*primals), and the derivative of its sum by each of them, as `vjp` does."""
    value, pull = vjp(function, *primals)
    return value, pull(torch.ones_like(value))


def differentiable_backward() -> bool:
    """Whether a backward pass is being recorded. A compiled backward never is: torch refuses to differentiate it."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def unsqueeze_to(x: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size 1 until `x` has `ndim` of them."""
    missing = ndim - x.dim()
    return x.unsqueeze(-1) if missing == 1 else x.reshape(x.shape + (1,) * missing)


def _apply(function: type[Function], *arguments: Any) -> Any:
    """Call `function.apply`, without its search of the signature for defaults, which costs as much as ten operations."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(Function, function).apply(*arguments)  # type: ignore[misc]


class _Surrogate(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, value, ctx.count = inputs[:3]
        ctx.save_for_backward(value, *inputs[3:])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        value, *tensors = ctx.saved_tensors
        parameters, gradients = tensors[: ctx.count], tensors[ctx.count :]
        outputs = [unsqueeze_to(grad_output, g.dim()) * g for g in gradients]
        if differentiable_backward():
            outputs = [_apply(_Refuse, ctx.name, g, value, *parameters) for g in outputs]
            grad_output = _apply(_Refuse, ctx.name, grad_output, *parameters)
        return None, grad_output, None, *outputs, *(None for _ in gradients)


class _Score(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, costs: Tensor, b: Tensor | None, points: Tensor, weights: Tensor | None, known: Discrete
    ) -> Tensor:
        return costs.mean(0) if weights is None else (weights * costs).sum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, known = inputs
        ctx.kind = type(known), known.event_ndim, known.dtype  # not its logits: torch.func has to see every tensor
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, costs, b, points, weights = ctx.saved_tensors
        kind, event_ndim, dtype = ctx.kind
        known: Discrete = kind(logits, event_ndim, dtype)
        if weights is not None:
            weights = grad_output * weights
        elif costs.shape[0] == 1:
            weights = grad_output.unsqueeze(0)
        else:
            weights = (grad_output / costs.shape[0]).expand_as(costs)
        if differentiable_backward():
            log_prob = known.log_prob(points)
            weights = weights * (log_prob - log_prob.detach()).exp()  # DiCE
        gradient = known.weighed_score(points, weights * (costs if b is None else costs - b))
        return gradient, weights, None, None, None, None


class _Guarded(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, points: Tensor) -> Tensor:
        return points.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, points = inputs
        ctx.save_for_backward(points)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        if differentiable_backward():
            grad_output = _apply(_Refuse, ctx.name, grad_output, *ctx.saved_tensors)
        return None, grad_output


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
    """Hands a gradient on; `ties` are what it depends on without a graph, so differentiating by them raises."""

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
