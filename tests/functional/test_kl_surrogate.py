"""Divergences from log-probabilities: every mean is a sum over all states, or an integral by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from sampleprop.functional.kl_surrogate import Direction, kl_surrogate

Q = torch.tensor([0.4, -0.9, 1.3, 0.0], dtype=torch.float64)
P = torch.tensor([-0.5, 0.8, 0.3, 0.1], dtype=torch.float64)
DIRECTIONS: tuple[Direction, ...] = ("reverse", "forward")


def logs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The leaves, and the log-probabilities of all states."""
    q, p = Q.clone().requires_grad_(), P.clone().requires_grad_()
    return q, p, q.log_softmax(0), p.log_softmax(0)


def divergence(direction: Direction) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The exact one, attached, and its leaves."""
    q, p, log_q, log_p = logs()
    value = log_q.exp() @ (log_q - log_p) if direction == "reverse" else log_p.exp() @ (log_p - log_q)
    return value, (q, p)


def mean(direction: Direction, at: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The mean of `at(log q, log p)` over samples, whose probabilities have no gradient, as drawn samples have none."""
    q, p, log_q, log_p = logs()
    probs = (log_q if direction == "reverse" else log_p).exp().detach()
    return probs @ at(log_q, log_p), (q, p)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_value_gradient_and_hessian_are_those_of_the_divergence(direction: Direction) -> None:
    found, leaves = mean(direction, lambda log_q, log_p: kl_surrogate(log_q, log_p, direction))
    expected, others = divergence(direction)
    torch.testing.assert_close(found, expected)
    first = torch.autograd.grad(found, leaves, create_graph=True)
    first_exact = torch.autograd.grad(expected, others, create_graph=True)
    for one, other in zip(first, first_exact, strict=True):
        torch.testing.assert_close(one, other)
        for i in range(len(Q)):
            second = torch.autograd.grad(one[i], leaves, retain_graph=True)
            second_exact = torch.autograd.grad(other[i], others, retain_graph=True)
            torch.testing.assert_close(second, second_exact)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_detached_reference_is_left_alone(direction: Direction) -> None:
    found, (q, p) = mean(direction, lambda log_q, log_p: kl_surrogate(log_q, log_p.detach(), direction))
    by_q, by_p = torch.autograd.grad(found, (q, p), allow_unused=True)
    expected, (exact_q, _) = divergence(direction)
    torch.testing.assert_close(by_q, torch.autograd.grad(expected, exact_q)[0])
    assert by_p is None


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reparameterized_samples_carry_the_gradient_themselves(direction: Direction) -> None:
    phi = torch.tensor([0.3, -0.2, 0.9, 0.4], dtype=torch.float64, requires_grad=True)
    q, p = Normal(phi[0], phi[1].exp()), Normal(phi[2], phi[3].exp())
    nodes = torch.arange(-9, 9.05, 0.1, dtype=torch.float64)
    masses = 0.1 * Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(nodes).exp()
    sampled = q if direction == "reverse" else p
    x = sampled.loc + sampled.scale * nodes
    expected = torch.distributions.kl_divergence(*((q, p) if direction == "reverse" else (p, q)))
    (exact,) = torch.autograd.grad(expected, phi, retain_graph=True)
    found = masses @ kl_surrogate(q.log_prob(x), p.log_prob(x), direction, reparameterized=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, phi, retain_graph=True)[0], exact)
    # To say nothing of it counts the score too, which is wrong; so is the path alone for samples that have none.
    silent = masses @ kl_surrogate(q.log_prob(x), p.log_prob(x), direction)
    assert (torch.autograd.grad(silent, phi, retain_graph=True)[0] - exact).norm() > 0.1
    fixed = masses @ kl_surrogate(q.log_prob(x.detach()), p.log_prob(x.detach()), direction, reparameterized=True)
    assert (torch.autograd.grad(fixed, phi)[0] - exact).norm() > 0.1


def k1(log_q: Tensor, log_p: Tensor) -> Tensor:
    return log_q - log_p


def k2(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_q - log_p).square() / 2


def k3(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_p - log_q).exp() - 1 - (log_p - log_q)


def by_q(value: Tensor, leaves: tuple[Tensor, Tensor]) -> Tensor:
    return torch.autograd.grad(value, leaves[0])[0]


def test_values_of_k1_k2_k3() -> None:
    expected, _ = divergence("reverse")
    torch.testing.assert_close(mean("reverse", k1)[0], expected)
    torch.testing.assert_close(mean("reverse", k3)[0], expected)
    assert (mean("reverse", k2)[0] - expected).abs() > 0.01


def test_gradients_of_k1_k2_k3_as_losses() -> None:
    reverse, forward = by_q(*divergence("reverse")), by_q(*divergence("forward"))
    assert (reverse - forward).norm() > 0.1
    torch.testing.assert_close(by_q(*mean("reverse", k1)), torch.zeros_like(Q), rtol=0, atol=1e-15)
    torch.testing.assert_close(by_q(*mean("reverse", k2)), reverse)
    torch.testing.assert_close(by_q(*mean("reverse", k3)), forward)


def test_gradients_by_the_parameters_of_p() -> None:
    value, (_, p) = mean("reverse", k1)
    expected, (_, exact_p) = divergence("reverse")
    exact = torch.autograd.grad(expected, exact_p)[0]
    torch.testing.assert_close(torch.autograd.grad(value, p)[0], exact)
    value, (_, p) = mean("reverse", k2)
    assert (torch.autograd.grad(value, p)[0] - exact).norm() > 0.1


def test_k1_and_k3_as_costs_of_a_score_function() -> None:
    """Attached, both are right; as detached numbers only k1 is, k3 gives the difference of the two gradients."""
    reverse, forward = by_q(*divergence("reverse")), by_q(*divergence("forward"))

    def attached(k: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        q, p, log_q, log_p = logs()
        return by_q(log_q.exp() @ k(log_q, log_p), (q, p))

    def detached(k: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        q, p, log_q, log_p = logs()
        return by_q(log_q.exp() @ k(log_q, log_p).detach(), (q, p))

    torch.testing.assert_close(attached(k1), reverse)
    torch.testing.assert_close(attached(k3), reverse)
    torch.testing.assert_close(detached(k1), reverse)
    torch.testing.assert_close(detached(k3), reverse - forward)


def test_an_impossible_sample_costs_infinitely_much() -> None:
    log_q, log_p = torch.tensor([-1.0, -0.5]), torch.tensor([-torch.inf, -1.5])
    torch.testing.assert_close(kl_surrogate(log_q, log_p), torch.tensor([torch.inf, 1.0]))


def test_a_draw_without_steps_diverges_by_nothing() -> None:
    assert kl_surrogate(torch.zeros(2, 0), torch.zeros(2, 0), time_dim=1).tolist() == [0, 0]


def test_precision() -> None:
    log_q, log_p = torch.tensor([-1.0], dtype=torch.bfloat16), torch.tensor([-2.0], dtype=torch.bfloat16)
    assert torch.equal(kl_surrogate(log_q, log_p), torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (
            (torch.zeros(3), torch.zeros(3), "backward"),
            ValueError,
            "direction as one of 'reverse', 'forward'; got 'backward'",
        ),
        (
            (torch.zeros(3), torch.zeros(2, 3)),
            ValueError,
            r"log_p in the shape of log_q, \[3\], nothing is broadcast; got \[2, 3\]",
        ),
        ((torch.zeros(3), 0.5), TypeError, "log_p as a tensor of real floating-point numbers; got float"),
        ((torch.zeros(3, dtype=torch.int64), torch.zeros(3)), TypeError, r"log_q as a tensor .*; got torch\.int64"),
    ],
    ids=["direction", "shapes", "number", "integers"],
)
def test_refusals(arguments: tuple[Any, ...], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"kl_surrogate needs {match}"):
        kl_surrogate(*arguments)


def test_the_steps_of_a_draw_by_hand() -> None:
    log_q = torch.tensor([-1.0, -0.5], dtype=torch.float64, requires_grad=True)
    value = kl_surrogate(log_q, torch.tensor([-2.0, -0.7], dtype=torch.float64), time_dim=0)
    assert value.item() == pytest.approx(1.2, abs=1e-15)
    torch.testing.assert_close(torch.autograd.grad(value, log_q)[0], torch.tensor([1.2, 0.2], dtype=torch.float64))
    mask = torch.tensor([True, False])
    one = kl_surrogate(log_q, torch.tensor([-2.0, torch.nan], dtype=torch.float64), time_dim=0, mask=mask)
    assert one.item() == 1
    assert torch.autograd.grad(one, log_q)[0].tolist() == [1, 0]
    path = kl_surrogate(log_q, torch.tensor([-2.0, -0.7], dtype=torch.float64), time_dim=0, reparameterized=True)
    assert torch.autograd.grad(path, log_q)[0].tolist() == [1, 1]
