"""What depends on who runs the code: eager torch, `torch.compile`, or a transform of `torch.func`.

Private parts of torch are named here and in no other file.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _current_graph_task_id
from torch.autograd import Variable
from torch.autograd.graph import _engine_run_backward
from torch.distributions.transforms import Transform, _InverseTransform
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode

CACHED = "_cached_x_y"  # where a transform keeps its last pair of tensors

C = TypeVar("C", bound=Callable[..., Any])


def transforms_active() -> bool:
    """Whether a transform of `torch.func` is running."""
    return torch._C._are_functorch_transforms_active()


def hooks_allowed() -> bool:
    """Whether tensors may have hooks: neither `torch.compile` nor a transform of `torch.func` is running."""
    return not torch.compiler.is_dynamo_compiling() and not torch._C._are_functorch_transforms_active()


def inspectable(x: Tensor) -> bool:
    """Whether the values of `x` may steer Python: not while compiling, and not under `torch.func`."""
    return not torch.compiler.is_dynamo_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def memorable(x: Tensor) -> bool:
    """Whether what is made from the shape of `x` may be kept for later calls: plain tensors, outside of any trace.

    A CUDA graph is a trace too: what is made while it is captured has no numbers before the graph is replayed.
    """
    if not hooks_allowed() or type(x) is not Tensor or torch.is_inference_mode_enabled():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def gradient_asked(x: Tensor) -> bool:
    """Whether `x` requires a gradient, for any `torch.func` transform around it too."""
    while not x.requires_grad and not torch.compiler.is_dynamo_compiling() and not inspectable(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad


def mapped(x: Tensor) -> bool:
    """Whether `torch.vmap` runs and `x` differs between its rows, so that it is no single number."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def differentiable_backward() -> bool:
    """Whether the backward pass itself is recorded. A compiled one never is: torch refuses to differentiate it."""
    return not torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled()


def in_backward() -> bool:
    """Whether this code runs inside of a backward pass, as that of activation checkpointing does."""
    return not torch.compiler.is_dynamo_compiling() and _current_graph_task_id() != -1


def hooked() -> bool:
    """Whether what autograd saves is handed to hooks, as activation checkpointing does, in place of being kept."""
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None


class Function(torch.autograd.Function):
    """That of torch, whose `apply` eagerly costs ten operations less."""

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Torch's, eagerly without its search of the signature for defaults."""
        if hooks_allowed():
            return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]
        return super().apply(*arguments)  # type: ignore[no-untyped-call]


class Aside(AbstractContextManager[None]):
    """Takes this mode off, if it is the innermost one, so that it sees nothing of what the library does."""

    def __init__(self, mode: TorchFunctionMode) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        self.off = _get_current_function_mode() is self.mode
        if self.off:
            _pop_mode()

    def __exit__(self, *error: object) -> None:
        if self.off:
            _push_mode(self.mode)


def constant_when_compiled(function: C) -> C:
    """Mark a function of constants: `torch.compile` calls it while it traces. The public decorator imports Dynamo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def hook(x: Tensor, action: Callable[[Tensor], Tensor | None]) -> None:
    """Register a hook on a tensor, for good: on one that has none yet in half the time of `register_hook`.

    What that adds is a handle to remove the hook again.
    """
    if x._backward_hooks is not None:
        x.register_hook(action)
        return
    action.__torch_unserializable__ = True  # type: ignore[attr-defined]
    x._backward_hooks = OrderedDict({-1: action})  # a handle counts from 0
    if x.grad_fn is not None:
        x.grad_fn._register_hook_dict(x)


def after_backward(x: Tensor, action: Callable[[], None]) -> None:
    """Call `action` once, at the end of the first backward pass through `x`; never if `x` requires no gradient.

    At the end, and not at once: what activation checkpointing computes again in the meantime must see the same state.
    """
    if not x.requires_grad:
        return

    def queue(gradient: Tensor) -> None:
        handle.remove()
        Variable._execution_engine.queue_callback(action)

    handle = x.register_hook(queue)


def cached_inverse(transform: Transform, y: Tensor) -> Tensor | None:
    """What this very tensor was made from, where the transform has a cache that keeps it."""
    if isinstance(transform, _InverseTransform):
        made, given = getattr(transform.inv, CACHED, (None, None))
    else:
        given, made = getattr(transform, CACHED, (None, None))
    return given if made is y else None


def unregistered_operation(node: Any) -> str | None:
    """The name of an operation of `torch.library` whose author has registered no derivative; None for another."""
    backward = getattr(getattr(type(node), "_forward_cls", None), "backward", None)
    if not inspect.isfunction(backward):
        return None
    kept = inspect.getclosurevars(backward).nonlocals
    if "op" not in kept or getattr(kept.get("info"), "_backward_fn", None) is not None:
        return None
    return str(kept["op"].name())


def lose_numerators_of_zero(quotients: Tensor) -> bool:
    """Make the gradient with respect to each numerator of exactly 0 NaN, and leave all other gradients as they are.

    Args:
        quotients: numbers that were divided by their sum, perhaps several times, and perhaps expanded or cast since.

    Returns:
        Whether such a division was found in the graph.
    """
    node: Any = quotients.grad_fn
    while node is not None and node.name() != "DivBackward0":
        node = node.next_functions[0][0] if len(node.next_functions) == 1 else None
    if node is None:
        return False
    while (inner := node.next_functions[0][0]) is not None and inner.name() == "DivBackward0":
        node = inner
    if "sampleprop" not in node.metadata:  # the same graph may be met again
        node.metadata["sampleprop"] = zero = node._saved_self.detach() == 0

        def lose(gradients: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
            return (gradients[0].masked_fill(zero, torch.nan), *gradients[1:])

        node.register_hook(lose)
    return True


def vjp(function: Callable[..., Tensor], *primals: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Return function(*primals), and the pullback from a cotangent of its shape to one for each primal.

    Under `torch.no_grad()` the results have no graph, therefore an f that is called in here leaves nothing to θ.
    Otherwise they are attached to what the function is attached to. Calls may be nested. Eagerly this is
    a backward pass, which is faster than `torch.func.vjp`; compiled and under `torch.func` only the latter works.
    """
    if torch.compiler.is_dynamo_compiling() or transforms_active():
        with _AnySize() if torch.compiler.is_dynamo_compiling() else nullcontext():
            value, pull = torch.func.vjp(function, *primals)  # type: ignore[misc]
        return value, pull
    if torch.is_inference_mode_enabled():  # no backward pass can follow, so no derivative is needed
        return function(*primals), lambda cotangent: tuple(torch.zeros_like(p) for p in primals)
    attached = torch.is_grad_enabled()
    torch.set_grad_enabled(True)  # enable_grad takes longer
    try:
        # A view, so that only paths through the argument count, not the same tensor where the function closes over it.
        inputs = [p.view_as(p) if attached and p.requires_grad else p.detach().requires_grad_() for p in primals]
        output = function(*inputs)
    finally:
        torch.set_grad_enabled(attached)

    def backward(cotangent: Tensor) -> tuple[Tensor, ...]:
        if not output.requires_grad:
            return tuple(torch.zeros_like(p) for p in primals)
        return derivatives(output, inputs, cotangent, keep_graph=attached, create_graph=attached)

    return output if attached else output.detach(), backward


def derivatives(
    output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor, *, keep_graph: bool, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """The derivative with respect to each input, 0 where none arrives; eager only.

    This is `torch.autograd.grad`, of which two thirds of the time are checks of its arguments.

    Args:
        output: a tensor that requires a gradient.
        inputs: tensors that require one.
        cotangent: of the output's shape.
        keep_graph: whether another backward pass will need the graph.
        create_graph: whether the derivatives are to have a graph of their own.
    """
    found = _engine_run_backward(
        (output,), (cotangent,), keep_graph, create_graph, tuple(inputs), True, accumulate_grad=False
    )
    return tuple(
        torch.zeros_like(x, requires_grad=create_graph) if d is None else d for x, d in zip(inputs, found, strict=True)
    )


def value_and_grad(function: Callable[..., Tensor], *primals: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return function(*primals), and the gradient of its sum with respect to each of them, as `vjp` does."""
    value, pull = vjp(function, *primals)
    return value, pull(torch.ones_like(value))


class _AnySize(TorchFunctionMode):
    """Workaround: under `torch.func` a compiled `F.linear` with bias specializes the shape of 3-D inputs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and len(args) == 3 and args[2] is not None and args[0].dim() == 3:
            result = F.linear(args[0], args[1])
            return result + args[2].to(result.dtype)
        return func(*args, **(kwargs or {}))
