"""Advantages from a critic, by hand, against loops, and in the mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import World, close, derivatives, exact, over_groups, world

REWARDS, VALUES, NEXT = (torch.tensor(x, dtype=torch.float64) for x in ([1, 0, 2], [0.5, 1, 0], [1, 0, 3]))
LAST = torch.tensor([False, False, True])


def advantage(**options: Any) -> Any:
    return sp.generalized_advantage(REWARDS, VALUES, NEXT, dim=0, discount=0.5, **options)


def test_gae_by_hand() -> None:
    assert advantage(trace=0.5, terminated=LAST).advantage.tolist() == [0.875, -0.5, 2]
    assert advantage(trace=0.5, truncated=LAST).advantage.tolist() == [0.96875, -0.125, 3.5]


def test_v_trace_by_hand() -> None:
    found = advantage(terminated=LAST, ratio=torch.tensor([2, 0.5, 0.8], dtype=torch.float64))
    close(found.advantage, torch.tensor([0.95, -0.1, 1.6], dtype=torch.float64))
    close(found.target, torch.tensor([1.45, 0.9, 1.6], dtype=torch.float64))


def test_the_clock_by_hand() -> None:
    rewards, values = torch.tensor([[1.0, 4, 2, 0], [0.5, 9, 1, 9]])
    drawn = torch.tensor([True, False, True, False])
    found = sp.generalized_advantage(rewards, values, dim=0, discount=0.5, drawn=drawn)
    assert found.advantage.tolist() == [5.5, 0, 1, 0]
    assert found.target.tolist() == [6, 0, 2, 0]


def looped(
    rewards: Tensor, values: Tensor, after: Tensor, terminated: Tensor, truncated: Tensor, ratio: Tensor, options: Any
) -> tuple[Tensor, Tensor]:
    """One step after the other, [time, batch]: equations 16 (GAE) and 1 (V-trace) of the papers."""
    discount, trace, (rho_limit, kappa_limit) = options
    beyond = torch.zeros_like(rewards[0])
    advantages, targets = [], []
    for t in reversed(range(len(rewards))):
        go = (~(terminated[t] | truncated[t])).double()
        rho, kappa = ratio[t].clamp(max=rho_limit), ratio[t].clamp(max=kappa_limit)
        delta = rewards[t] + discount * (~terminated[t]).double() * after[t] - values[t]
        advantages.append(rho * (delta + discount * go * beyond))
        beyond = rho * delta + discount * trace * go * kappa * beyond
        targets.append(values[t] + beyond)
    return torch.stack(advantages[::-1]), torch.stack(targets[::-1])


@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_against_a_loop(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    rewards, values, after = torch.randn(3, length, 4, dtype=torch.float64, generator=generator)
    terminated = torch.rand(length, 4, generator=generator) < 0.2
    truncated = (torch.rand(length, 4, generator=generator) < 0.2) & ~terminated
    ratio = torch.rand(length, 4, dtype=torch.float64, generator=generator) * 3
    found = sp.generalized_advantage(
        rewards, values, after, dim=0, discount=0.9, trace=0.7, terminated=terminated, truncated=truncated,
        ratio=ratio, clip=(1.5, 1.0),
    )  # fmt: skip
    expected = looped(rewards, values, after, terminated, truncated, ratio, (0.9, 0.7, (1.5, 1.0)))
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    plain = sp.generalized_advantage(
        rewards.T, values.T, after.T, dim=1, discount=0.9, trace=0.7, terminated=terminated.T, truncated=truncated.T
    )
    inf = float("inf")
    _, target = looped(rewards, values, after, terminated, truncated, torch.ones_like(ratio), (0.9, 0.7, (inf, inf)))
    close(plain.target.T, target)
    close(plain.advantage.T, target - values)


def test_observations_pass_time_by() -> None:
    """Rewards of the observations belong to the token before; what is compressed by hand gives the same."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.tensor([True, False, False, True, True, False])
    rewards, values = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    found = sp.generalized_advantage(rewards, values, dim=0, discount=0.8, trace=0.6, drawn=drawn)
    short = torch.stack([rewards[0] + rewards[1] + rewards[2], rewards[3], rewards[4] + rewards[5]])
    end = torch.tensor([False, False, True])
    expected = sp.generalized_advantage(short, values[drawn], dim=0, discount=0.8, trace=0.6, terminated=end)
    close(found.advantage[drawn], expected.advantage)
    close(found.target[drawn], expected.target)
    assert found.advantage[~drawn].eq(0).all()


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_an_end_that_comes_with_an_observation_belongs_to_the_token_before(flag: str) -> None:
    """Two episodes in one row; the second one begins with an observation, whose reward no token has earned."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.tensor([True, True, False, False, True, True, False])
    end = torch.tensor([False, False, True, False, False, False, True])
    rewards, values, after = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    options: dict[str, Any] = {"dim": 0, "discount": 0.8, "trace": 0.6}
    found = sp.generalized_advantage(rewards, values, after, drawn=drawn, **options, **{flag: end})
    short = torch.stack([rewards[0], rewards[1] + rewards[2], rewards[4], rewards[5] + rewards[6]])
    last = torch.tensor([False, True, False, True])
    expected = sp.generalized_advantage(short, values[drawn], after[drawn], **options, **{flag: last})
    close(found.advantage[drawn], expected.advantage)
    close(found.target[drawn], expected.target)


def test_with_a_full_trace_the_mean_is_exact_whatever_the_critic_says() -> None:
    w = world()

    def loss(w: World) -> Tensor:
        values = torch.where(w.drawn, torch.full_like(w.costs, 0.7).detach(), torch.nan)
        rewards = torch.where(w.mask, -w.costs.detach(), 0)
        found = sp.generalized_advantage(rewards, values, dim=1, mask=w.mask, drawn=w.drawn)
        return sp.score_function_loss(
            w.log_prob, -found.advantage, time_dim=1, mask=w.mask, drawn=w.drawn, as_weights=True
        )

    (found,) = torch.autograd.grad(over_groups(w, 1, loss), w.phi, retain_graph=True)
    close(found, derivatives(exact(w), w)[0])


def test_the_two_ends_differ_and_so_do_shifted_values() -> None:
    """The mutants: a truncation taken for a termination, and next_values shifted by one step."""
    right = advantage(trace=0.5, truncated=LAST).advantage
    assert not torch.equal(right, advantage(trace=0.5, terminated=LAST).advantage)
    shifted = sp.generalized_advantage(
        REWARDS, VALUES, NEXT.roll(1), dim=0, discount=0.5, trace=0.5, truncated=LAST
    ).advantage
    assert not torch.equal(right, shifted)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ({"truncated": LAST}, ValueError, "next_values where episodes are truncated.*final observations"),
        ({}, ValueError, "next_values where the last step does not terminate"),
        ({"terminated": ~LAST}, ValueError, "next_values where the last step does not terminate"),
        ({"terminated": LAST.double()}, TypeError, "terminated as a tensor of booleans"),
        ({"terminated": LAST, "discount": 1.5}, ValueError, "discount from 0 to 1"),
        ({"terminated": LAST, "trace": -0.5}, ValueError, "trace from 0 to 1"),
        ({"terminated": LAST, "clip": (0.0, 1.0)}, ValueError, "clip as two limits above 0"),
        ({"terminated": LAST, "clip": 1.0}, ValueError, r"clip as two limits above 0, .*; got 1\.0"),
        ({"terminated": LAST, "discount": REWARDS}, TypeError, "discount as one number from 0 to 1; got a tensor"),
        ({"drawn": LAST, "mask": ~LAST}, ValueError, "drawn steps to exist"),
        ({"mask": ~LAST}, ValueError, "every reward .* got 2 at"),
        ({"terminated": LAST, "ratio": VALUES[:2]}, ValueError, "ratio in the shape of rewards"),
        ({"values": VALUES.clone().requires_grad_(), "terminated": LAST}, ValueError, "values without a gradient"),
        ({"values": VALUES / 0, "terminated": LAST}, ValueError, "finite numbers in values"),
    ],
    ids=str,
)
def test_refusals(call: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"generalized_advantage needs .*{match}"):
        sp.generalized_advantage(REWARDS, **({"values": VALUES, "dim": 0} | call))
