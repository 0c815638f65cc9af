"""A divergence and an entropy of whole sequences, from those of their steps: what each usual form is the gradient of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import World, close, derivatives, error, over_groups, world

REFERENCE = torch.tensor([[0.1, 0.9, -0.4], [-0.7, 0.0, 0.5], [0.6, -0.3, 0.2]], dtype=torch.float64)


def prepared() -> tuple[World, Tensor, Tensor]:
    """The draws with log-ratios as costs; the exact divergence and entropy of each step, attached, [draws, 4]."""
    w = world()
    log_p, log_q = w.phi.view(3, 3).log_softmax(1), REFERENCE.log_softmax(1)
    kl, entropy = (log_p.exp() * (log_p - log_q)).sum(1), -(log_p.exp() * log_p).sum(1)
    state = torch.zeros(w.drawn.shape, dtype=torch.int64)
    log_ratio = torch.zeros(w.drawn.shape, dtype=torch.float64)
    for row in range(3):
        for token in range(3):
            here = w.log_prob == log_p[row, token]
            state = torch.where(here, row, state)
            log_ratio = torch.where(here, log_p[row, token] - log_q[row, token], log_ratio)
    steps = [torch.where(w.drawn, x[state], 0) for x in (kl, entropy)]
    return w._replace(costs=torch.where(w.mask, torch.where(w.drawn, log_ratio, 0), torch.nan)), steps[0], steps[1]


def loss(w: World, cost: Tensor) -> Tensor:
    return sp.score_function_loss(w.log_prob, cost, time_dim=1, mask=w.mask, drawn=w.drawn)


KL: dict[str, Callable[[World, Tensor], Tensor]] = {
    "exact, attached, as a cost": loss,
    "exact, attached, as a cost, with its own value as a baseline": lambda w, kl: sp.score_function_loss(
        w.log_prob, kl, time_dim=1, mask=w.mask, drawn=w.drawn, baseline=kl.detach()
    ),
    "k1, detached, as a cost": lambda w, kl: loss(w, w.costs.detach()),
    "kl_surrogate of steps": lambda w, kl: sp.kl_surrogate(
        torch.where(w.drawn, w.log_prob, 0),
        torch.where(w.drawn, w.log_prob - w.costs, 0).detach(),
        time_dim=1,
        mask=w.drawn,
    ).mean(),
    "exact, as a term of the loss": lambda w, kl: kl.sum(1).mean(),
    "exact, detached, as a cost": lambda w, kl: loss(w, kl.detach()),
    "k3 of each step, as a term of the loss": lambda w, kl: (
        torch.where(w.drawn, (-w.costs).exp() - 1 + w.costs, 0).sum(1).mean()
    ),
}
RIGHT = list(KL)[:4]


def mean_gradient(name: str) -> tuple[Tensor, Tensor]:
    w, kl, _ = prepared()
    both = w._replace(costs=torch.stack([w.costs, kl], -1))
    found = over_groups(both, 1, lambda x: KL[name](x._replace(costs=x.costs[..., 0]), x.costs[..., 1]))
    expected = w.probs @ torch.where(w.drawn, w.costs, 0).sum(1)
    return derivatives(found, w)[0], derivatives(expected, w)[0]


@pytest.mark.parametrize("name", RIGHT)
def test_right_forms_of_the_divergence(name: str) -> None:
    close(*mean_gradient(name))


@pytest.mark.parametrize("name", [name for name in KL if name not in RIGHT])
def test_biased_forms_of_the_divergence(name: str) -> None:
    assert error(*mean_gradient(name)) > 0.05


def test_an_entropy_bonus_is_a_cost_and_no_term_of_the_loss() -> None:
    w, _, entropy = prepared()
    expected = w.probs @ torch.where(w.drawn, -w.log_prob, 0).sum(1)
    paired = w._replace(costs=entropy)
    as_cost = over_groups(paired, 1, lambda x: loss(x, x.costs))
    close(derivatives(as_cost, w)[0], derivatives(expected, w)[0])
    as_term = over_groups(paired, 1, lambda x: x.costs.sum(1).mean())
    assert error(derivatives(as_term, w)[0], derivatives(expected, w)[0]) > 0.05
