"""`vjp` in eager torch, beside autograd: what it is attached to, and what it leaves alone; hooks without a handle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sampleprop.tracing import derivatives, gradient_asked, hook, value_and_grad, vjp


def leaf(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def test_without_gradients_nothing_is_attached() -> None:
    x, theta = leaf(1.0, 2.0), leaf(3.0)
    with torch.no_grad():
        value, pull = vjp(lambda y: theta * y.square(), x)
        (gradient,) = pull(torch.ones(2, dtype=torch.float64))
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert torch.equal(value, torch.tensor([3.0, 12.0]).double())
    assert torch.equal(gradient, torch.tensor([6.0, 12.0]).double())


def test_otherwise_value_and_gradient_are_attached_and_can_be_asked_again() -> None:
    x, theta = leaf(1.0, 2.0), leaf(3.0)
    value, pull = vjp(lambda y: theta * y.square(), x)
    for _ in range(2):
        (gradient,) = pull(torch.ones(2, dtype=torch.float64))
    second_by_theta, second_by_x = torch.autograd.grad(gradient.sum(), (theta, x), retain_graph=True)
    assert torch.equal(second_by_theta, 2 * x.detach().sum().reshape(1))
    assert torch.equal(second_by_x, 2 * theta.detach().expand(2))
    assert torch.equal(*torch.autograd.grad(value.sum(), theta), x.detach().square().sum().reshape(1))


@pytest.mark.parametrize("second", [True, False])
def test_derivatives_are_those_of_autograd(second: bool) -> None:
    x, theta, unused = leaf(1.0, 2.0), leaf(3.0), leaf(4.0)
    output, cotangent = theta * x.pow(3), torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = derivatives(output, (x, theta, unused), cotangent, keep_graph=True, create_graph=second)
    wanted = torch.autograd.grad(
        output, (x, theta, unused), cotangent, retain_graph=True, create_graph=second, materialize_grads=True
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == second


@pytest.mark.parametrize("is_leaf", [True, False])
def test_hooks_run_in_their_order_and_may_change_the_gradient(is_leaf: bool) -> None:
    x = leaf(1.0, 2.0)
    y, seen = x if is_leaf else x.view_as(x), []
    hook(y, lambda gradient: 2 * gradient)
    hook(y, seen.append)
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([2.0, 2.0]).double())
    assert torch.equal(*seen, x.grad)


def test_only_paths_through_the_argument_count() -> None:
    x = leaf(1.0, 2.0)
    _, (gradient,) = value_and_grad(lambda y: y * x, x)
    assert torch.equal(gradient, x)


@pytest.mark.parametrize("attached", [True, False])
def test_a_function_that_does_not_depend_has_the_gradient_zero(attached: bool) -> None:
    x, other = leaf(1.0, 2.0), leaf(5.0)
    with torch.set_grad_enabled(attached):
        _, (none, some) = value_and_grad(lambda y, z: 2 * z.expand(2), x, other)
        _, (constant,) = value_and_grad(lambda y: torch.ones(2), x)
    assert torch.equal(none, torch.zeros(2).double())
    assert torch.equal(some, torch.tensor([4.0]).double())
    assert torch.equal(constant, torch.zeros(2).double())


def test_in_inference_mode_there_is_a_value_and_no_derivative() -> None:
    with torch.inference_mode():
        value, (gradient,) = value_and_grad(torch.square, torch.tensor([3.0]))
    assert torch.equal(value, torch.tensor([9.0]))
    assert torch.equal(gradient, torch.tensor([0.0]))


def test_a_gradient_that_an_outer_transform_asks_for_is_seen() -> None:
    seen = []

    def outer(x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            seen.append((gradient_asked(x), gradient_asked(y), gradient_asked(y.detach())))
            return (x * y).sum()

        return torch.func.vmap(inner)(x).sum()

    torch.func.grad(outer)(torch.ones(2, 3))
    assert seen == [(True, True, False)]


def test_a_hook_without_a_handle_is_one_of_torch() -> None:
    """It is set through private attributes. If torch reads others, no second derivative would be refused any more."""
    seen = []

    def double(gradient: Tensor) -> Tensor:
        seen.append(gradient.tolist())
        return 2 * gradient

    def silent(gradient: Tensor) -> None:
        seen.append(gradient.tolist())

    x = leaf(1.0, 2.0)
    y = 3 * x
    hook(y, double)
    handle = y.register_hook(silent)  # a further one, which comes after it
    value = y.square().sum()
    for _ in range(2):  # in each backward pass, by either way, and for the tensor itself
        (by_x,) = torch.autograd.grad(value, x, retain_graph=True)
        assert by_x.tolist() == [36.0, 72.0]
        (by_y,) = torch.autograd.grad(value, y, retain_graph=True)
        assert by_y.tolist() == [12.0, 24.0]
    assert seen == [[6.0, 12.0], [12.0, 24.0]] * 4
    handle.remove()  # takes away the further one alone
    value.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [36.0, 72.0]
    assert seen[8:] == [[6.0, 12.0]]
