"""Faults that users met, each as a test that failed before it was fixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import sampleprop as sp
from functional.agents import close, over_groups, world


def test_a_reward_on_a_tool_token_does_not_vanish() -> None:
    log_prob = torch.randn(2, 3, 4, requires_grad=True)
    exists = torch.ones(2, 3, 4, dtype=torch.bool)
    drawn = torch.tensor([True, False, True, False]).expand(2, 3, 4)
    cost = torch.zeros(2, 3, 4)
    cost[..., -1] = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"every cost at a step .* that exists"):
        sp.score_function_loss(log_prob, cost, time_dim=-1, mask=drawn)
    with pytest.raises(ValueError, match=r"every reward at a step .* that exists"):
        sp.reward_to_go(cost, dim=-1, mask=drawn)
    found = sp.score_function_loss(log_prob, cost, time_dim=-1, mask=exists, drawn=drawn)
    expected = sp.score_function_loss(log_prob, cost.sum(-1), time_dim=-1, mask=drawn)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, log_prob)[0] for x in (found, expected)))


def test_a_dimension_of_steps_is_not_taken_for_one_of_draws() -> None:
    log_prob = torch.zeros(5, 3, requires_grad=True)
    for call in (
        lambda: sp.score_function_loss(log_prob, torch.zeros(5, 3)),  # type: ignore[call-arg]
        lambda: sp.reward_to_go(torch.zeros(5, 3)),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="dim"):
            call()


def test_ratios_are_clipped_before_they_overflow() -> None:
    log_prob = torch.zeros(1, requires_grad=True)
    ratio = sp.importance_ratio(log_prob, torch.tensor([-200.0]), clip=(0.0, 2.0))
    assert ratio.item() == 2
    assert torch.autograd.grad(ratio.sum(), log_prob)[0].item() == 0


@pytest.mark.parametrize("clip", [(0.2, 0.28), (1.2, 2.0), (0.0, 0.5), 0.2], ids=str)
def test_a_clip_that_leaves_out_the_ratio_of_equal_policies_is_refused(clip: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"importance_ratio needs .*PPO's ε|low <= 1 <= high"):
        sp.importance_ratio(torch.zeros(3, requires_grad=True), torch.zeros(3), clip=clip)


def test_tokens_do_not_depend_on_how_the_batch_is_split() -> None:
    log_prob = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(3) < torch.tensor([1, 3, 2, 1]).unsqueeze(1)
    cost = torch.tensor([1.0, -2, 3, 1], dtype=torch.float64)

    def loss(rows: slice) -> Tensor:
        tokens = sp.count(mask, time_dim=1, normalize="tokens")
        return sp.score_function_loss(
            log_prob[rows], cost[rows], time_dim=1, mask=mask[rows], normalize="tokens", divisor=tokens
        )

    whole, parts = loss(slice(0, 4)), loss(slice(0, 1)) + loss(slice(1, 4))
    close(torch.autograd.grad(parts, log_prob)[0], torch.autograd.grad(whole, log_prob)[0])


def test_kl_of_sequences_from_their_tokens() -> None:
    w = world()
    reference = torch.where(w.drawn, -1.0 - 0.1 * torch.arange(4), 0).double()
    paired = w._replace(costs=reference)
    found = over_groups(paired, 1, lambda x: sp.kl_surrogate(x.log_prob, x.costs, time_dim=1, mask=x.drawn).mean())
    log_ratio = torch.where(w.drawn, w.log_prob, 0).sum(1) - reference.sum(1)
    expected = w.probs @ log_ratio
    close(found, expected)
    gradients = [torch.autograd.grad(x, w.phi, create_graph=True)[0] for x in (found, expected)]
    close(*gradients)
    close(*(torch.autograd.grad(g.sum(), w.phi, retain_graph=True)[0] for g in gradients))


def test_taking_the_one_out_at_each_step_is_seen() -> None:
    """The mutant of the test above: the number of steps is random, so its score has a mean."""
    w = world()

    def mutant(x: Any) -> Tensor:
        log_prob = torch.where(x.drawn, x.log_prob, 0)
        score = log_prob.cumsum(1)
        box = (score - score.detach()).exp()
        return torch.where(x.drawn, box * (log_prob - 1) + 1, 0).sum(1).mean()

    expected = w.probs @ torch.where(w.drawn, w.log_prob, 0).sum(1)
    found = over_groups(w, 1, mutant)
    one, other = (torch.autograd.grad(x, w.phi, retain_graph=True)[0] for x in (found, expected))
    assert (one - other).norm() > 0.01 * other.norm()


def test_a_soft_capped_head_in_pieces_is_the_model() -> None:
    weight, hidden = torch.randn(11, 6, requires_grad=True), torch.randn(3, 6)
    tokens = torch.randint(11, (3,))

    def capped(h: Tensor, t: Tensor) -> Tensor:
        return sp.token_log_prob(2 * (h @ weight.T / 2).tanh(), t)

    torch.testing.assert_close(sp.in_chunks(capped, hidden, tokens, dims=1, chunk=2), capped(hidden, tokens))


def squashed(loc: Tensor, **options: Any) -> TransformedDistribution:
    return TransformedDistribution(Normal(loc, torch.ones(())), [TanhTransform(**options)])


def test_a_squashed_normal_at_the_edge_says_what_to_do_and_that_is_right() -> None:
    """log p of a point that tanh rounded to 1 is infinite, unless the transform remembers what it came from."""
    loc = torch.tensor(12.0, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    q = squashed(loc)
    with pytest.raises(ValueError, match=r"finite costs.*TanhTransform\(cache_size=1\).*would be a bias"):
        sp.expect(q.log_prob, q, sp.Pathwise(4), generator=generator)
    many = Independent(squashed(loc.expand(2)), 1)
    with pytest.raises(ValueError, match=r"TanhTransform\(cache_size=1\)"):
        sp.expect(many.log_prob, many, sp.Pathwise(4), generator=generator)
    cached = squashed(loc, cache_size=1)

    def cost(y: Tensor) -> Tensor:
        return cached.log_prob(y) - 3 * y

    # Far out the entropy of tanh(x) falls by 2 for each unit of loc: log p(y) = log p(x) - log(1 - tanh² x).
    (gradient,) = torch.autograd.grad(sp.expect(cost, cached, sp.Pathwise(4), generator=generator), loc)
    assert gradient.item() == pytest.approx(2, abs=1e-3)
