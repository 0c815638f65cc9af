"""What exists, and what the policy drew of it: every mean is a sum over all groups of draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import World, close, derivatives, error, exact, over_groups, total, world


def loss(w: World, **options: Any) -> Tensor:
    return sp.score_function_loss(w.log_prob, w.costs, time_dim=1, mask=w.mask, drawn=w.drawn, **options)


def to_go(w: World) -> Tensor:
    return sp.reward_to_go(torch.where(w.mask, w.costs, 0).detach(), dim=1, mask=w.mask)


def knows_the_past(w: World) -> Tensor:
    """At each step a function of the costs before it; NaN where nothing was drawn."""
    costs = torch.where(w.mask, w.costs, 0).detach()
    return torch.where(w.drawn, (costs.cumsum(1) - costs).square() + 0.3, torch.nan)


UNBIASED: dict[str, Callable[[World], Tensor]] = {
    "steps": loss,
    "whole": lambda w: sp.score_function_loss(w.log_prob, total(w), time_dim=1, mask=w.mask, drawn=w.drawn),
    "leave one out": lambda w: loss(w, baseline="leave-one-out", group_dim=0),
    "whole, leave one out": lambda w: sp.score_function_loss(
        w.log_prob, total(w), time_dim=1, mask=w.mask, drawn=w.drawn, baseline="leave-one-out", group_dim=0
    ),
    "costs to go of the others": lambda w: loss(w, baseline=sp.leave_one_out(to_go(w), 0)),
    "weighted by lengths": lambda w: loss(
        w, baseline=sp.leave_one_out(total(w).detach(), 0, weight=w.drawn.sum(1).double()).unsqueeze(1).expand(-1, 4)
    ),
    "by ids": lambda w: loss(
        w,
        baseline=sp.leave_one_out(to_go(w), groups=torch.zeros(len(w.mask), dtype=torch.int64)),
    ),
    "a baseline that knows the past": lambda w: loss(w, baseline=knows_the_past(w)),
    "a constant divisor": lambda w: loss(w, divisor=2),
    "tokens over a constant": lambda w: loss(w, normalize="tokens", divisor=torch.tensor(2.0)),
}


@pytest.mark.parametrize("terminal", [False, True], ids=["dense", "terminal"])
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_is_exact_to_the_second_order(name: str, terminal: bool) -> None:
    w = world(terminal)
    found, expected = over_groups(w, 2, UNBIASED[name]), exact(w)
    close(found, expected)
    for one, other in zip(derivatives(found, w), derivatives(expected, w), strict=True):
        close(one, other)


@pytest.mark.parametrize("name", UNBIASED)
def test_a_group_that_is_looked_at_gives_the_same(name: str) -> None:
    """The means are taken under vmap, which looks at no values."""
    w = world()
    index = torch.tensor([[0, 4], [2, 6], [5, 5]])
    one = torch.stack([UNBIASED[name](World(*(x[i] for x in w[:5]), w.phi)) for i in index])
    mapped = torch.func.vmap(lambda *x: UNBIASED[name](World(*x, w.phi)))(*(x[index] for x in w[:5]))
    close(one, mapped)


def test_three_draws_with_weights() -> None:
    """Of two draws the only other one is its own weighted mean; of three the weights matter."""
    w = world()
    found = over_groups(w, 3, UNBIASED["weighted by lengths"])
    close(derivatives(found, w)[0], derivatives(exact(w), w)[0])

    def own_draw_in(w: World) -> Tensor:
        lengths = w.drawn.sum(1).double()
        mean = (lengths @ total(w).detach()) / lengths.sum()
        return loss(w, baseline=mean.expand(len(lengths), 4))

    assert error(derivatives(over_groups(w, 3, own_draw_in), w)[0], derivatives(exact(w), w)[0]) > 0.01


BIASED: dict[str, Callable[[World], Tensor]] = {
    "length": lambda w: loss(w, normalize="length"),
    "tokens": lambda w: loss(w, normalize="tokens"),
    "whitened": lambda w: sp.score_function_loss(
        w.log_prob, sp.whiten(to_go(w), w.drawn), time_dim=1, mask=w.mask, drawn=w.drawn, as_weights=True
    ),
    "a mask in the place of drawn": lambda w: sp.score_function_loss(
        w.log_prob, torch.where(w.drawn, w.costs, 0), time_dim=1, mask=w.drawn
    ),
}


@pytest.mark.parametrize("name", BIASED)
def test_what_is_called_biased_is(name: str) -> None:
    w = world()
    (found,) = torch.autograd.grad(over_groups(w, 2, BIASED[name]), w.phi, retain_graph=True)
    assert error(found, derivatives(exact(w), w)[0]) > 0.01


def test_by_hand() -> None:
    log_prob = torch.zeros(1, 3, requires_grad=True)
    value = sp.score_function_loss(
        log_prob, torch.tensor([[0.0, 3.0, 1.0]]), time_dim=1, drawn=torch.tensor([[True, False, True]])
    )
    assert value.item() == 4
    assert torch.autograd.grad(value, log_prob)[0].tolist() == [[4, 0, 1]]


def test_a_draw_that_does_not_exist_counts_for_nothing() -> None:
    w = world()
    two = World(*(x[[1, 5]] for x in w[:5]), w.phi)
    nan = torch.full((1, 4), torch.nan, dtype=torch.float64)
    dead = torch.zeros(1, 4, dtype=torch.bool)
    three = World(
        torch.cat([two.log_prob[:1], nan, two.log_prob[1:]]),
        torch.cat([two.mask[:1], dead, two.mask[1:]]),
        torch.cat([two.drawn[:1], dead, two.drawn[1:]]),
        torch.cat([two.costs[:1], nan, two.costs[1:]]),
        two.probs,
        w.phi,
    )
    for options in (
        {},
        {"baseline": "leave-one-out", "group_dim": 0},
        {"normalize": "length"},
        {"normalize": "tokens"},
    ):
        one, other = loss(two, **options), loss(three, **options)
        close(one, other)
        close(*(torch.autograd.grad(x, w.phi, retain_graph=True)[0] for x in (one, other)))


def test_a_draw_of_which_nothing_was_drawn_counts_with_its_cost() -> None:
    log_prob = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    costs = torch.tensor([[1.0, 2.0], [4.0, 0.0]], dtype=torch.float64)
    drawn = torch.tensor([[True, False], [False, False]])
    value = sp.score_function_loss(log_prob, costs, time_dim=1, drawn=drawn)
    assert value.item() == 3.5
    assert torch.autograd.grad(value, log_prob)[0].tolist() == [[1.5, 0], [0, 0]]


def test_the_time_dimension_has_no_default() -> None:
    with pytest.raises(TypeError, match="time_dim"):
        sp.score_function_loss(torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="dim"):
        sp.reward_to_go(torch.zeros(2, 3))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="got neither"):
        sp.leave_one_out(torch.zeros(2, 3))


def test_compiles_whole() -> None:
    w = world()
    ids = torch.tensor([0, 1, 0, 1, 1, 0, 0])

    def both(log_prob: Tensor, costs: Tensor, mask: Tensor, drawn: Tensor, ids: Tensor) -> Tensor:
        costs = torch.where(mask, costs, 0)
        weight = drawn.sum(1).double()
        base = sp.leave_one_out(costs.sum(1), groups=ids, weight=weight) + sp.leave_one_out(costs.sum(1), 0)
        options: dict[str, Any] = {"time_dim": 1, "mask": mask, "drawn": drawn, "divisor": 7.0}
        kl = sp.kl_surrogate(log_prob, torch.zeros_like(log_prob), time_dim=1, mask=drawn)
        step = sp.importance_ratio(log_prob, torch.full_like(log_prob, -0.4), mask=drawn, clip=(0.8, None))
        whole = sp.importance_ratio(
            log_prob, torch.full_like(log_prob, -0.4), mask=drawn, time_dim=1, level="geometric"
        )
        values = torch.full_like(log_prob, 0.2).detach()
        advantage = sp.generalized_advantage(-costs, values, dim=1, trace=0.9, mask=mask, drawn=drawn)
        return (
            sp.score_function_loss(log_prob, costs, baseline=base, **options)
            + sp.score_function_loss(log_prob, -advantage.advantage, as_weights=True, **options)
            + sp.aggregate(step * advantage.target, drawn, time_dim=1, normalize="tokens", divisor=9.0)
            + (kl * whole).sum()
        )

    leaf = torch.where(w.drawn, w.log_prob, 0).detach().requires_grad_()
    arguments = (leaf, w.costs.detach(), w.mask, w.drawn, ids)
    expected = both(*arguments)
    (gradient,) = torch.autograd.grad(expected, leaf)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(*arguments)
    close(compiled, expected)
    close(torch.autograd.grad(compiled, leaf)[0], gradient)


def test_the_agent_is_what_it_seems() -> None:
    w = world()
    close(w.probs.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert bool((w.mask & ~w.drawn).any())
    assert total(w).shape == (7,)
