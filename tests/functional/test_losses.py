"""Losses from log-probabilities: every mean is a sum over all draws of a small policy, so nothing here is random.

The policy writes two tokens out of three. In its second form token 0 ends the sequence, and what follows is padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import sampleprop as sp

PHI = torch.tensor([0.3, -0.8, 0.5, 1.1, -0.4, 0.2, -0.6, 0.9, 0.1, 0.0, 0.7, -1.2], dtype=torch.float64)
FIRST = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)
SECOND = torch.tensor([[0.7, 3.0, -1.0], [2.5, 0.0, 1.0], [-2.0, 1.2, 4.0]], dtype=torch.float64)
TOKENS = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # [9, 2]
ENDED = TOKENS[[0, 3, 4, 5, 6, 7, 8]]  # token 0 ends it, so its second token is padding
FORMS = pytest.mark.parametrize("ends", [False, True], ids=["two tokens", "one or two tokens"])


class World(NamedTuple):
    log_prob: Tensor  # [sequences, 2]
    mask: Tensor  # [sequences, 2]
    costs: Tensor  # [sequences, 2]
    probs: Tensor  # [sequences]
    leaves: tuple[Tensor, Tensor]


def world(ends: bool, phi: Tensor = PHI) -> World:
    """All sequences; log-probabilities and costs of padding are NaN."""
    phi, theta = phi.clone().requires_grad_(), torch.tensor([0.6, -0.3], dtype=torch.float64, requires_grad=True)
    tokens = ENDED if ends else TOKENS
    first, second = tokens.unbind(1)
    log_prob = torch.stack([phi[:3].log_softmax(0)[first], phi[3:].reshape(3, 3).log_softmax(1)[first, second]], 1)
    costs = torch.stack([FIRST[first] + theta[0] * first, SECOND[first, second] + (theta * theta[1]).sum() * second], 1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if ends:
        mask[:, 1] = first != 0
    probs = torch.where(mask, log_prob, 0).sum(1).exp()
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    return World(torch.where(mask, log_prob, nan), mask, torch.where(mask, costs, nan), probs, (phi, theta))


def exact(w: World) -> Tensor:
    return w.probs @ torch.where(w.mask, w.costs, 0).sum(1)


def pairs_of(w: World, probs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The probabilities of all groups of two draws, and what they hold: [groups, 2, ...]."""
    pairs = torch.cartesian_prod(torch.arange(len(probs)), torch.arange(len(probs)))
    return probs[pairs].prod(1), tuple(x[pairs] for x in w[:4])


def over_pairs(w: World, loss: Callable[[World], Tensor], probs: Tensor | None = None) -> Tensor:
    """The mean of `loss` over all groups of two draws. Their probabilities have no gradient, as samples have none."""
    weights, groups = pairs_of(w, w.probs.detach() if probs is None else probs)
    return weights @ torch.func.vmap(lambda *group: loss(World(*group, w.leaves)))(*groups)


def gradients(value: Tensor, w: World) -> Tensor:
    return torch.cat(torch.autograd.grad(value, w.leaves, create_graph=True, materialize_grads=True))


def hessian(value: Tensor, w: World) -> Tensor:
    return torch.stack(
        [
            torch.cat(torch.autograd.grad(g, w.leaves, retain_graph=True, materialize_grads=True))
            for g in gradients(value, w)
        ]
    )


def whole(w: World) -> Tensor:
    return torch.where(w.mask, w.costs, 0).sum(1)


LOSSES: dict[str, Callable[[World], Tensor]] = {
    "whole": lambda w: sp.score_function_loss(w.log_prob, whole(w), time_dim=1, mask=w.mask),
    "steps": lambda w: sp.score_function_loss(w.log_prob, w.costs, time_dim=1, mask=w.mask),
    "draws": lambda w: sp.score_function_loss(torch.where(w.mask, w.log_prob, 0).sum(1), whole(w), time_dim=None),
    "whole, leave one out": lambda w: sp.score_function_loss(
        w.log_prob, whole(w), baseline="leave-one-out", group_dim=0, time_dim=1, mask=w.mask
    ),
    "steps, leave one out": lambda w: sp.score_function_loss(
        w.log_prob, w.costs, baseline="leave-one-out", group_dim=0, time_dim=1, mask=w.mask
    ),
    "whole, a baseline": lambda w: sp.score_function_loss(
        w.log_prob, whole(w), baseline=torch.full_like(w.costs[:, 0], 1.7).detach(), time_dim=1, mask=w.mask
    ),
    "whole, a baseline that knows the past": lambda w: sp.score_function_loss(
        w.log_prob, whole(w), baseline=knows_the_past(w), time_dim=1, mask=w.mask
    ),
    "steps, a baseline that knows the past": lambda w: sp.score_function_loss(
        w.log_prob, w.costs, baseline=knows_the_past(w), time_dim=1, mask=w.mask
    ),
}
GIVEN: dict[str, Callable[[World], Tensor]] = {
    "reward to go": lambda w: sp.score_function_loss(w.log_prob, to_go(w), time_dim=1, mask=w.mask, as_weights=True),
    "reward to go, leave one out": lambda w: sp.score_function_loss(
        w.log_prob, to_go(w), baseline="leave-one-out", group_dim=0, time_dim=1, mask=w.mask, as_weights=True
    ),
    "advantage": lambda w: sp.score_function_loss(
        w.log_prob, (whole(w) - sp.leave_one_out(whole(w), 0)).detach(), time_dim=1, mask=w.mask, as_weights=True
    ),
    "own mean, doubled": lambda w: sp.score_function_loss(
        w.log_prob, 2 * (whole(w) - whole(w).mean(0)).detach(), time_dim=1, mask=w.mask, as_weights=True
    ),
}


def knows_the_past(w: World) -> Tensor:
    """At the second step any function of the first cost; NaN in the padding."""
    first = w.costs[:, 0].detach()
    return torch.where(w.mask, torch.stack([torch.full_like(first, 0.8), first.square()], 1), torch.nan)


def to_go(w: World) -> Tensor:
    return sp.reward_to_go(torch.where(w.mask, w.costs, 0).detach(), dim=1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@FORMS
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_value_gradient_and_hessian_are_exact_in_the_mean(loss: Callable[[World], Tensor], ends: bool) -> None:
    w = world(ends)
    found, expected = over_pairs(w, loss), exact(w)
    close(found, expected)
    close(gradients(found, w), gradients(expected, w))
    close(hessian(found, w), hessian(expected, w))


@FORMS
@pytest.mark.parametrize("loss", GIVEN.values(), ids=GIVEN)
def test_given_weights_have_the_exact_gradient_in_the_mean(loss: Callable[[World], Tensor], ends: bool) -> None:
    w = world(ends)
    close(gradients(over_pairs(w, loss), w)[:12], gradients(exact(w), w)[:12])


@pytest.mark.parametrize("loss", (LOSSES | GIVEN).values(), ids=LOSSES | GIVEN)
def test_every_group_is_the_same_without_vmap(loss: Callable[[World], Tensor]) -> None:
    """The means above are taken under vmap, which looks at no values; a call for one group does."""
    w = world(True)
    weights, groups = pairs_of(w, w.probs.detach())
    losses = torch.stack([loss(World(*group, w.leaves)) for group in zip(*groups, strict=True)])
    mapped = torch.func.vmap(lambda *group: loss(World(*group, w.leaves)))(*groups)
    close(losses, mapped)
    close(gradients(weights @ losses, w), gradients(weights @ mapped, w))


def bias(found: Tensor, expected: Tensor) -> float:
    """The relative error of a mean gradient by φ after the best constant factor, which a step size could mend."""
    found, expected = found[:12].detach(), expected[:12].detach()
    factor = (found @ expected) / (found @ found)
    return float((factor * found - expected).norm() / expected.norm())


def standardized(w: World) -> Tensor:
    total = whole(w).detach()
    return (total - total.mean()) / (total.std() + 1e-4)


BIASED: dict[str, Callable[[World], Tensor]] = {
    "length": lambda w: sp.score_function_loss(w.log_prob, whole(w), time_dim=1, mask=w.mask, normalize="length"),
    "length, leave one out": lambda w: sp.score_function_loss(
        w.log_prob, w.costs, baseline="leave-one-out", group_dim=0, time_dim=1, mask=w.mask, normalize="length"
    ),
    "tokens": lambda w: sp.score_function_loss(w.log_prob, w.costs, time_dim=1, mask=w.mask, normalize="tokens"),
    "standard deviation": lambda w: sp.score_function_loss(
        w.log_prob, standardized(w), time_dim=1, mask=w.mask, as_weights=True
    ),
}


@pytest.mark.parametrize(
    ("name", "percent"),
    [("length", 54), ("length, leave one out", 19), ("tokens", 19), ("standard deviation", 39)],
)
def test_what_is_said_to_be_biased_is(name: str, percent: int) -> None:
    w = world(True)
    found, expected = gradients(over_pairs(w, BIASED[name]), w), gradients(exact(w), w)
    assert 100 * bias(found, expected) == pytest.approx(percent, abs=0.5)


def test_length_is_the_gradient_of_the_cost_per_token() -> None:
    w = world(True)
    lengths = w.mask.sum(1)
    found = gradients(over_pairs(w, BIASED["length"]), w)[:12]
    close(found, gradients(w.probs @ (whole(w) / lengths), w)[:12])


def test_lengths_that_do_not_vary_leave_a_factor() -> None:
    w = world(False)
    for name in ("length", "length, leave one out", "tokens"):
        close(2 * gradients(over_pairs(w, BIASED[name]), w)[:12], gradients(exact(w), w)[:12])


def test_dropping_the_discount_of_the_state_is_biased() -> None:
    discount = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def loss(factor: Tensor) -> Callable[[World], Tensor]:
        return lambda w: sp.score_function_loss(
            w.log_prob, factor * sp.reward_to_go(w.costs.detach(), 0.5, dim=1), time_dim=1, as_weights=True
        )

    w = world(False)
    discounted = w._replace(costs=w.costs * discount)
    close(gradients(over_pairs(w, loss(discount)), w)[:12], gradients(exact(discounted), w)[:12])
    dropped = gradients(over_pairs(w, loss(torch.ones_like(discount))), w)[:12]
    assert (dropped - gradients(exact(discounted), w)[:12]).norm() > 0.1


def behaviour(ends: bool) -> tuple[Tensor, Tensor]:
    """Its log-probabilities of the steps, and the probabilities of the sequences."""
    w = world(ends, PHI.flip(0) * 0.7)
    return w.log_prob.detach(), w.probs.detach()


RATIOS: dict[str, Callable[[World, Tensor], Tensor]] = {
    "whole": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask) * (whole(w) - sp.leave_one_out(whole(w), 0))
    ).mean(),
    "steps": lambda w, mu: (
        (sp.importance_ratio(w.log_prob, mu, time_dim=1, level="prefix", mask=w.mask) * w.costs.where(w.mask, 0))
        .sum(1)
        .mean()
    ),
}
BIASED_RATIOS: dict[str, Callable[[World, Tensor], Tensor]] = {
    "each step alone": lambda w, mu: (
        (sp.importance_ratio(w.log_prob, mu, mask=w.mask) * whole(w).unsqueeze(1)).where(w.mask, 0).sum(1).mean()
    ),
    "clipped": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask, clip=(0.8, 1.2)) * whole(w)
    ).mean(),
    "truncated": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask, clip=(0.0, 1.5)) * whole(w)
    ).mean(),
    "PPO": lambda w, mu: torch.maximum(
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask) * whole(w),
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask, clip=(0.8, 1.2)) * whole(w),
    ).mean(),
    "self-normalized": lambda w, mu: (
        sp.importance_ratio(w.log_prob, mu, time_dim=1, mask=w.mask, self_normalize=0) * whole(w)
    ).mean(),
}


def with_behaviour(ends: bool) -> tuple[World, Tensor]:
    log_mu, mu = behaviour(ends)
    return world(ends)._replace(probs=log_mu), mu


@FORMS
@pytest.mark.parametrize("loss", RATIOS.values(), ids=RATIOS)
def test_ratios_are_exact_in_the_mean(loss: Callable[[World, Tensor], Tensor], ends: bool) -> None:
    w, mu = with_behaviour(ends)
    target = world(ends)
    found, expected = over_pairs(w, lambda pair: loss(pair, pair.probs), mu), exact(target)
    close(gradients(found, w)[:12], gradients(expected, target)[:12])
    close(hessian(found, w)[:12, :12], hessian(expected, target)[:12, :12])


@pytest.mark.parametrize(
    ("name", "percent"),
    [("each step alone", 29), ("clipped", 100), ("truncated", 91), ("PPO", 48), ("self-normalized", 74)],
)
def test_biased_ratios_are_biased(name: str, percent: int) -> None:
    w, mu = with_behaviour(True)
    found = gradients(over_pairs(w, lambda pair: BIASED_RATIOS[name](pair, pair.probs), mu), w)
    target = world(True)
    assert 100 * bias(found, gradients(exact(target), target)) == pytest.approx(percent, abs=0.5)


@pytest.mark.parametrize("name", BIASED_RATIOS)
def test_on_policy_biased_ratios_are_not(name: str) -> None:
    """Self-normalization of two draws leaves a factor of a half, as subtracting the mean of both does."""
    w = world(True)
    same = w._replace(probs=w.log_prob.detach())
    found = over_pairs(same, lambda pair: BIASED_RATIOS[name](pair, pair.probs), w.probs.detach())
    factor = 2 if name == "self-normalized" else 1
    close(factor * gradients(found, w)[:12], gradients(exact(w), w)[:12])


def test_on_policy_the_ratio_is_the_score_function() -> None:
    w = world(False)
    found = (sp.importance_ratio(w.log_prob, w.log_prob.detach(), time_dim=1) * whole(w)).mean()
    expected = sp.score_function_loss(w.log_prob, whole(w), time_dim=1)
    close(found, expected)
    close(gradients(found, w), gradients(expected, w))
    close(hessian(found, w), hessian(expected, w))


def test_ratio_of_what_the_policy_would_never_draw() -> None:
    log_prob = torch.tensor([-torch.inf, -1.0], requires_grad=True)
    ratio = sp.importance_ratio(log_prob, torch.tensor([-1.0, -1.0]))
    assert ratio.tolist() == [0, 1]
    assert torch.autograd.grad(ratio.sum(), log_prob)[0].tolist() == [0, 1]


def test_self_normalized_ratios_average_to_one() -> None:
    log_prob = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    log_mu = 400 * torch.randn(3, 4, 5, dtype=torch.float64)  # exp(log_prob - log_mu) would overflow
    ratio = sp.importance_ratio(log_prob, log_mu, time_dim=1, self_normalize=2)
    assert ratio.shape == (3, 5)
    close(ratio.mean(1), torch.ones(3, dtype=torch.float64))
    cumulative = sp.importance_ratio(log_prob, log_mu, time_dim=1, level="prefix", self_normalize=2)
    close(cumulative[:, -1], ratio)


def test_dimensions_may_stand_in_any_order() -> None:
    log_prob, costs = torch.randn(2, 3, 4, 5, dtype=torch.float64)  # [prompts, draws, time]
    log_prob.requires_grad_()
    mask = torch.rand(3, 4, 5) < 0.7
    mask[..., 0] = True
    costs = torch.where(mask, costs, 0)
    expected = sp.score_function_loss(log_prob, costs, baseline="leave-one-out", group_dim=1, time_dim=2, mask=mask)
    (gradient,) = torch.autograd.grad(expected, log_prob)
    for order, group, time in (((2, 0, 1), 2, 0), ((1, 2, 0), 0, -2), ((0, 2, 1), -1, 1)):
        found = sp.score_function_loss(
            log_prob.permute(order),
            costs.permute(order),
            baseline="leave-one-out",
            group_dim=group,
            time_dim=time,
            mask=mask.permute(order),
        )
        close(found, expected)
        close(torch.autograd.grad(found, log_prob)[0], gradient)
    total = costs.sum(2)
    for cost, order, group, time in ((total, (0, 1, 2), 1, 2), (total.T, (2, 1, 0), 1, 0), (total, (0, 2, 1), 2, 1)):
        found = sp.score_function_loss(
            log_prob.permute(order),
            cost,
            baseline="leave-one-out",
            group_dim=group,
            time_dim=time,
            mask=mask.permute(order),
        )
        score = torch.where(mask, log_prob, 0).sum(2)
        by_hand = ((total - sp.leave_one_out(total, 1)) * score).mean()
        close(found, total.mean())
        close(torch.autograd.grad(found, log_prob)[0], torch.autograd.grad(by_hand, log_prob)[0])


def test_masked_draws_do_not_count() -> None:
    log_prob, costs = torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]]).expand(3, 4)
    full, short = log_prob.clone().requires_grad_(), log_prob[:, :3].clone().requires_grad_()
    costs[:, 3] = torch.nan
    group: dict[str, Any] = {"baseline": "leave-one-out", "group_dim": 1, "time_dim": None}
    found = sp.score_function_loss(full, costs, mask=mask, **group)
    expected = sp.score_function_loss(short, costs[:, :3], **group)
    close(found, expected)
    close(torch.autograd.grad(found, full)[0][:, :3], torch.autograd.grad(expected, short)[0])


def test_later_steps_have_the_others_that_have_not_ended() -> None:
    log_prob = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    costs = torch.tensor([[1.0, 4.0], [0.0, 2.0], [7.0, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    loss = sp.score_function_loss(log_prob, costs, baseline="leave-one-out", group_dim=0, time_dim=1, mask=mask)
    # From the first step on 5, 2 and 7, so the others' means are 4.5, 6 and 3.5; from the second on 4 and 2.
    expected = torch.tensor([[0.5, 2.0], [-4.0, -2.0], [3.5, 0.0]], dtype=torch.float64) / 3
    close(torch.autograd.grad(loss, log_prob)[0], expected)
    assert loss.item() == pytest.approx(14 / 3)


@pytest.mark.parametrize("normalize", ["draws", "tokens", "length"])
def test_divisors(normalize: Any) -> None:
    log_prob = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    cost = torch.tensor([5.0, 2.0], dtype=torch.float64)
    loss = sp.score_function_loss(log_prob, cost, time_dim=1, mask=mask, normalize=normalize)
    divisor = {"draws": [2, 2], "tokens": [4, 4], "length": [2 * 1, 2 * 3]}[normalize]
    close(torch.autograd.grad(loss, log_prob)[0], mask * (cost / torch.tensor(divisor)).unsqueeze(1))
    assert loss.item() == 3.5


@pytest.mark.parametrize("options", [{"as_weights": True}, {"normalize": "tokens"}, {"normalize": "length"}], ids=str)
def test_second_derivatives_of_the_first_order_forms_are_refused(options: dict[str, Any]) -> None:
    phi = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss = sp.score_function_loss(phi.sigmoid().log(), torch.arange(4.0), time_dim=1, **options)
    (gradient,) = torch.autograd.grad(loss, phi, create_graph=True)
    with pytest.raises(RuntimeError, match=r"score_function_loss\(.*\) estimates first derivatives only"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("options", [{}, {"as_weights": True}], ids=str)
def test_loss_precision(dtype: torch.dtype, options: dict[str, Any]) -> None:
    log_prob = (-torch.rand(4, 300)).to(dtype).requires_grad_()
    cost = torch.tensor([1001, 1003, 1002, 1002])  # integers, closer than bfloat16 can tell
    loss = sp.score_function_loss(log_prob, cost, baseline="leave-one-out", group_dim=0, time_dim=1, **options)
    assert loss.dtype == torch.float32
    assert loss.item() == 1002
    double = sp.score_function_loss(
        log_prob, cost.double(), baseline="leave-one-out", group_dim=0, time_dim=1, **options
    )
    assert double.dtype == torch.float64
    assert torch.autograd.grad(double, log_prob)[0].dtype == dtype
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert gradient.dtype == dtype
    expected = torch.tensor([-1 / 3, 1 / 3, 0, 0]).unsqueeze(1).expand(4, 300)
    torch.testing.assert_close(gradient, expected.to(dtype), rtol=1e-2, atol=1e-6)


def test_a_value_alone_needs_no_graph() -> None:
    with torch.no_grad():
        assert sp.score_function_loss(torch.zeros(2), torch.tensor([1.0, 2.0]), time_dim=None).item() == 1.5


def test_compile_and_vmap() -> None:
    log_prob, costs = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    log_mu = torch.randn(6, 4, 5, dtype=torch.float64)
    mask = torch.rand(6, 4, 5) < 0.7
    mask[..., 0] = True

    def loss(log_prob: Tensor, costs: Tensor, log_mu: Tensor, mask: Tensor) -> Tensor:
        plain: dict[str, Any] = {"time_dim": 1, "mask": mask}
        # Not plain | {...}, which torch 2.6 does not compile.
        group: dict[str, Any] = {**plain, "baseline": "leave-one-out", "group_dim": 0}
        total = torch.where(mask, costs, 0).sum(1)
        costs = torch.where(mask, costs, 0)
        given = sp.reward_to_go(costs, 0.9, dim=1, done=~mask)
        ratio = sp.importance_ratio(log_prob, log_mu, clip=(0.5, 2.0), **plain)
        return (
            sp.score_function_loss(log_prob, costs, **group)
            + sp.score_function_loss(log_prob, given, as_weights=True, **group)
            + (ratio * (total - sp.leave_one_out(total, 0))).mean()
        )

    attached = log_prob.clone().requires_grad_()
    expected = torch.stack([loss(*row) for row in zip(attached, costs, log_mu, mask, strict=True)])
    (gradient,) = torch.autograd.grad(expected.sum(), attached)
    mapped = torch.func.vmap(loss)(attached, costs, log_mu, mask)
    close(mapped, expected)
    close(torch.autograd.grad(mapped.sum(), attached)[0], gradient)
    row = log_prob[0].clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(row, costs[0], log_mu[0], mask[0])
    close(compiled, expected[0])
    close(torch.autograd.grad(compiled, row)[0], gradient[0])
    close(torch.func.grad(lambda x: torch.func.vmap(loss)(x, costs, log_mu, mask).sum())(log_prob), gradient)


X = torch.zeros(2, 3)
A = torch.zeros(2, 3, requires_grad=True)
NAN = torch.tensor([[0.0, torch.nan, 0.0], [0.0, 0.0, 0.0]])
MASK = torch.tensor([[True, False, False], [True, True, True]])
REFUSED: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (
        lambda: sp.score_function_loss(X, X, time_dim=None),
        RuntimeError,
        "log_prob that is attached .* Compute it with gradients on",
    ),
    (
        lambda: sp.score_function_loss(A.long(), X, time_dim=None),
        TypeError,
        r"log_prob as a tensor of real floating.*; got torch\.int64",
    ),
    (lambda: sp.score_function_loss(A, 1.0, time_dim=None), TypeError, "cost as a tensor of real numbers; got float"),  # type: ignore[arg-type]
    (lambda: sp.score_function_loss(A, X[:, 0], time_dim=None), ValueError, r"got \[2\]\. If .* time_dim=-1"),
    (
        lambda: sp.score_function_loss(A, X[:, :1], time_dim=None),
        ValueError,
        r"cost in the shape of log_prob, \[2, 3\].*; got \[2, 1\]",
    ),
    (lambda: sp.score_function_loss(A, X[0], time_dim=1), ValueError, r"each draw, \[2\], or for each step, \[2, 3\]"),
    (
        lambda: sp.score_function_loss(A, X, time_dim=2),
        ValueError,
        r"time_dim to be a dimension of shape \[2, 3\]; got 2",
    ),
    (
        lambda: sp.score_function_loss(A, X, mask=MASK[0], time_dim=None),
        ValueError,
        r"mask in the shape of log_prob, .*; got \[3\]",
    ),
    (
        lambda: sp.score_function_loss(A, X, mask=MASK.float(), time_dim=None),
        TypeError,
        r"mask as a tensor of booleans; got torch\.float32",
    ),
    (
        lambda: sp.score_function_loss(A, X, time_dim=0, mask=~MASK & MASK),
        ValueError,
        "a draw that the mask keeps; got none.* skip the batch",
    ),
    (
        lambda: sp.score_function_loss(A, X + 0.25, time_dim=1, mask=MASK),
        ValueError,
        r"every cost at a step \(or draw\) that exists; got 0\.25 at \[0, 1\], where mask is False.*drawn=; else put 0",
    ),
    (
        lambda: sp.score_function_loss(A, X[:, 0] + 2, time_dim=1, mask=torch.tensor([[False] * 3, [True] * 3])),
        ValueError,
        r"every cost .*; got 2 at \[0\]",
    ),
    (
        lambda: sp.score_function_loss(A, X, time_dim=1, mask=MASK, drawn=torch.ones_like(MASK)),
        ValueError,
        r"drawn steps to exist; got one that mask leaves out at \[0, 1\]",
    ),
    (
        lambda: sp.score_function_loss(A, X, time_dim=1, drawn=X),
        TypeError,
        r"drawn as a tensor of booleans; got torch\.float32",
    ),
    (lambda: sp.score_function_loss(A, X, time_dim=1, divisor=0), ValueError, r"a finite divisor above 0; got 0"),
    (lambda: sp.score_function_loss(A, X, time_dim=1, divisor="8"), TypeError, "divisor as a number .* got str"),  # type: ignore[arg-type]
    (lambda: sp.score_function_loss(A, X, time_dim=1, divisor=X[0]), ValueError, r"divisor as one number .*\[3\]"),
    (
        lambda: sp.score_function_loss(
            A, X, time_dim=1, baseline="leave-one-out", group_dim=0, mask=torch.tensor([[False] * 3, [True] * 3])
        ),
        ValueError,
        "two draws or more that the mask keeps",
    ),
    (
        lambda: sp.score_function_loss(A, X, mask=~MASK & MASK, time_dim=None),
        ValueError,
        "a draw that the mask keeps; got none",
    ),
    (
        lambda: sp.score_function_loss(A, NAN, time_dim=None),
        ValueError,
        r"finite numbers in cost; got nan at \[0, 1\]\. Fix the cost",
    ),
    (
        lambda: sp.score_function_loss(A + NAN, X, time_dim=None),
        ValueError,
        r"in log_prob; got nan at \[0, 1\]\. .* mask padding",
    ),
    (
        lambda: sp.score_function_loss(A - torch.inf, X, time_dim=None),
        ValueError,
        "finite numbers in log_prob; got -inf",
    ),
    (
        lambda: sp.score_function_loss(A, X, baseline=NAN, time_dim=None),
        ValueError,
        "finite numbers in baseline; got nan",
    ),
    (
        lambda: sp.score_function_loss(A, X, baseline=A.exp(), time_dim=None),
        ValueError,
        r"baseline without a gradient.*baseline\.detach",
    ),
    (
        lambda: sp.score_function_loss(A, X, baseline=X[0], time_dim=None),
        ValueError,
        r"a baseline for each draw, .* got \[3\]",
    ),
    (lambda: sp.score_function_loss(A, X, baseline=0.5, time_dim=None), ValueError, r"got 0\.5\. .* torch\.full_like"),  # type: ignore[arg-type]
    (lambda: sp.score_function_loss(A, X, baseline="leave-one-out", time_dim=None), ValueError, "got group_dim=None"),
    (
        lambda: sp.score_function_loss(A, X, group_dim=0, time_dim=None),
        ValueError,
        "group_dim for .* only; got group_dim=0",
    ),
    (
        lambda: sp.score_function_loss(A, X, baseline="leave-one-out", group_dim=1, time_dim=-1),
        ValueError,
        "steps of one draw are not independent",
    ),
    (
        lambda: sp.score_function_loss(A[:1], X[:1], baseline="leave-one-out", group_dim=0, time_dim=None),
        ValueError,
        r"groups of two draws or more along group_dim=0; got shape \[1, 3\]",
    ),
    (
        lambda: sp.score_function_loss(A, X, baseline="leave-one-out", group_dim=1, mask=MASK, time_dim=None),
        ValueError,
        r"two draws or more that the mask keeps .*; got one at \[0\]",
    ),
    (
        lambda: sp.score_function_loss(A, A.exp(), as_weights=True, time_dim=None),
        ValueError,
        r"cost without a gradient.*cost\.detach",
    ),
    (
        lambda: sp.score_function_loss(A, X, normalize="sum", time_dim=None),
        ValueError,
        "normalize as one of 'draws', .*; got 'sum'",
    ),  # type: ignore[arg-type]
    (
        lambda: sp.score_function_loss(A, X, normalize="length", time_dim=None),
        ValueError,
        "normalize by length; got time_dim=None",
    ),
    (lambda: sp.leave_one_out(X[:1], 0), ValueError, r"two draws or more along dim=0; got shape \[1, 3\]"),
    (lambda: sp.leave_one_out(NAN, 0), ValueError, "finite numbers in costs; got nan"),
    (lambda: sp.leave_one_out(X, 2), ValueError, "dim to be a dimension of shape"),
    (lambda: sp.leave_one_out(X, 1, MASK), ValueError, r"got one at \[0\] of the others"),
    (lambda: sp.reward_to_go(NAN, dim=0), ValueError, "finite numbers in rewards; got nan"),
    (lambda: sp.reward_to_go(X, 1.1, dim=0), ValueError, r"discount from 0 to 1; got 1\.1"),
    (lambda: sp.leave_one_out(X), ValueError, "or groups=ids; got neither"),
    (lambda: sp.leave_one_out(X, 0, groups=torch.zeros(2, dtype=torch.int64)), ValueError, "or groups=ids; got both"),
    (lambda: sp.leave_one_out(X, groups=torch.zeros(2)), ValueError, r"int64 ids, .* 2 entries .*; got torch\.float32"),
    (lambda: sp.leave_one_out(X, groups=torch.tensor([0, 1])), ValueError, r"got one at \[0, 0\]\. .*shrinkage"),
    (lambda: sp.leave_one_out(X, 0, weight=X - 1), ValueError, r"weights of 0 or more; got -1"),
    (lambda: sp.reward_to_go(X + 1, dim=1, mask=MASK), ValueError, r"every reward .* exists; got 1 at \[0, 1\]"),
    (lambda: sp.reward_to_go(X, X[0], dim=1), ValueError, "discount in the shape of rewards"),
    (lambda: sp.reward_to_go(X, torch.nan, dim=0), ValueError, "discount from 0 to 1; got nan"),
    (lambda: sp.reward_to_go(X, dim=0, done=X), TypeError, r"done as a tensor of booleans; got torch\.float32"),
    (lambda: sp.reward_to_go(X, dim=0, done=MASK[:1]), ValueError, r"done in the shape of rewards, .*; got \[1, 3\]"),
    (lambda: sp.importance_ratio(A, X[0]), ValueError, "behaviour_log_prob in the shape of log_prob"),
    (lambda: sp.importance_ratio(A, A), ValueError, "behaviour_log_prob without a gradient.*would cancel"),
    (lambda: sp.importance_ratio(A, X - torch.inf), ValueError, "in behaviour_log_prob; got -inf"),
    (lambda: sp.importance_ratio(A, X - 200), ValueError, "in the ratio; got inf .* too far apart"),
    (lambda: sp.importance_ratio(A + NAN, X), ValueError, "in the ratio; got nan"),
    (lambda: sp.importance_ratio(A, X, level="prefix"), ValueError, "got time_dim=None"),
    (lambda: sp.importance_ratio(A, X, clip=(1.2, 0.8)), ValueError, r"low <= 1 <= high, .*; got clip=\(1\.2, 0\.8\)"),
    (lambda: sp.importance_ratio(A, X, clip=(0.2, 0.28)), ValueError, r"clip=\(0\.2, 0\.28\)\. Epsilons"),
    (lambda: sp.importance_ratio(A, X, clip=(0.0, 0.5)), ValueError, "low <= 1 <= high"),
    (lambda: sp.importance_ratio(A, X, clip=(-0.1, None)), ValueError, "0 <= low"),
    (lambda: sp.importance_ratio(A, X, clip=0.2), TypeError, r"clip=\(low, high\).*; got 0\.2\. PPO's"),  # type: ignore[arg-type]
    (lambda: sp.importance_ratio(A, X, outside="mask"), ValueError, "outside as one of"),  # type: ignore[arg-type]
    (lambda: sp.importance_ratio(A, X, level="token"), ValueError, "level as one of"),  # type: ignore[arg-type]
    (lambda: sp.importance_ratio(A, X, time_dim=0, level="draw", self_normalize=0), ValueError, "over draws"),
    (lambda: sp.importance_ratio(A, X, clip=(0.8, 1.2), self_normalize=0), ValueError, "not both"),
    (lambda: sp.importance_ratio(A, X, time_dim=0, self_normalize=0), ValueError, "normalize over draws"),
    (lambda: sp.importance_ratio(A[:1], X[:1], self_normalize=0), ValueError, "groups of two draws"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSED, ids=[match for _, _, match in REFUSED])
def test_refusals(call: Callable[[], Tensor], error: type[Exception], match: str) -> None:
    with pytest.raises(
        error, match=f"(score_function_loss|leave_one_out|reward_to_go|importance_ratio) needs .*{match}"
    ):
        call()


def test_leave_one_out() -> None:
    costs = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    mask[0, 1] = mask[1, :2] = mask[2, :, 0] = False
    everyone, some = sp.leave_one_out(costs, 1), sp.leave_one_out(costs, -2, mask)
    assert not everyone.requires_grad
    for a in range(3):
        for i in range(4):
            for b in range(2):
                others = [j for j in range(4) if j != i]
                close(everyone[a, i, b], costs.detach()[a, others, b].mean())
                kept = [j for j in others if mask[a, j, b]] or [0]
                expected = costs.detach()[a, kept, b].mean() * mask[a, :, b].any()
                close(some[a, i, b], expected)


def naive(rewards: Tensor, discount: float, done: Tensor) -> Tensor:
    """One step after the other, [time, batch]."""
    later, result = torch.zeros_like(rewards[0]), []
    for reward, end in zip(rewards.flip(0), done.flip(0), strict=True):
        later = reward + discount * torch.where(end, 0, later)
        result.append(later)
    return torch.stack(result).flip(0)


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_reward_to_go(length: int, discount: float) -> None:
    rewards = torch.randn(length, 5, dtype=torch.float64, requires_grad=True)
    done = torch.rand(length, 5) < 0.2
    weights = torch.randn(length, 5, dtype=torch.float64)
    for ends in (done, torch.zeros_like(done)):
        found = sp.reward_to_go(rewards, discount, dim=0, done=ends)
        expected = naive(rewards, discount, ends)
        close(found, expected)
        gradient, expected_gradient = (torch.autograd.grad(x, rewards, weights)[0] for x in (found, expected))
        close(gradient, expected_gradient)
    close(sp.reward_to_go(rewards, discount, dim=0), found)
    close(sp.reward_to_go(rewards.T, discount, dim=1, done=done.T), naive(rewards, discount, done).T)


def test_reward_to_go_of_a_long_episode() -> None:
    """Where γ^t underflows, and where a sum in float32 from the end would have lost four digits."""
    rewards = torch.ones(200_000, 1)
    torch.testing.assert_close(sp.reward_to_go(rewards, 0.5, dim=0)[:1000], torch.full((1000, 1), 2.0))
    expected = torch.arange(200_000, 0, -1).unsqueeze(1) * 0.1
    found = sp.reward_to_go(rewards * 0.1, dim=0)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=0)
    assert sp.reward_to_go(torch.ones(3, 1, dtype=torch.int64), dim=0).dtype == torch.float32
