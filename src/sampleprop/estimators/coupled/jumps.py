"""Jumps of ordered outcomes: to which neighbour a small change of φ would move a sample, and at which rate.

Let a count with distribution function F be drawn by inversion. Then samples at x jump to x + 1 at the rate
-∇F(x) / p(x). The probability that crosses the edge between the two can also be taken from the other side, where
samples at x + 1 jump to x at the rate ∇F(x) / p(x + 1), or from both sides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn import functional

from sampleprop import noise
from sampleprop.families import Bernoullis, Discrete, Integers, OneHots, Variables
from sampleprop.surrogate import unsqueeze_to

COUNTS = (td.Poisson, td.Binomial, td.Geometric, td.NegativeBinomial)


class Jumps(NamedTuple):
    """All without graph."""

    neighbours: Tensor  # [k, *batch, *event, sides], where each coordinate jumps to; arbitrary where the weight is 0
    weights: Tensor  # [k, *batch, *event, sides], the rate
    directions: Tensor  # [k, *batch, *event, sides], or [..., sides, C] for integers: the gradient for a weight of 1


def refusal(name: str, variables: Variables) -> str | None:
    """Why these variables have no order or no known rates of jumps, with the fix; None if they have both."""
    base = variables.base
    if isinstance(variables, OneHots):
        return (
            f"{name} needs outcomes in an order; got OneHotCategorical. Use Categorical if the order of the classes "
            "means something, else LocalExpectation or ScoreFunction."
        )
    if not isinstance(variables, Discrete) and type(base) not in COUNTS:
        return (
            f"{name} needs Bernoulli, Binomial, Poisson, Geometric, NegativeBinomial or Categorical; got "
            f"{type(base).__name__}. Use ScoreFunction for any distribution, or Pathwise for one with rsample."
        )
    if isinstance(base, td.NegativeBinomial) and base.total_count.requires_grad:
        return (
            f"{name} needs a total_count without gradient for NegativeBinomial; got one that requires it, and the rate "
            "of its jumps has no simple form. Use ScoreFunction, or detach total_count."
        )
    return None


def parameter_of(variables: Variables) -> tuple[str, Tensor]:
    """The name and value of the parameter with respect to which samples jump, as it was given: probs or logits."""
    return next((name, value) for name, value in variables.parameters.items() if name != "total_count")


def gradient(moves: Tensor, directions: Tensor) -> Tensor:
    """Sum the jumps to all sides, [k, *batch, *event, sides], in their directions: the gradient of each sample."""
    each, sides = unsqueeze_to(moves, directions.dim()) * directions, moves.dim() - 1
    return each.squeeze(sides) if each.shape[sides] == 1 else each.sum(sides)


def jumps(variables: Variables, x: Tensor) -> Jumps:
    """The jumps of each coordinate; where both sides have simple rates, from the side with the smaller one."""
    if isinstance(variables, Integers):
        return _next_class(variables, x)
    if isinstance(variables, Bernoullis):
        return _rarer_value(variables, variables.one_hot(x))
    base: Any = variables.base
    name, parameter = parameter_of(variables)
    x, parameter = x.unsqueeze(-1), noise.promote(parameter.detach()).unsqueeze(-1)
    if isinstance(base, td.Poisson):
        ones = torch.ones_like(noise.promote(x))
        return Jumps(x + 1, ones, ones)
    if name == "logits":
        p, q = parameter.sigmoid(), (-parameter).sigmoid()
        over_p, over_q = q, p  # dp/dφ = pq, divided by p and by q
    else:
        p, q = parameter, 1 - parameter
        over_p, over_q = 1 / p, 1 / q
    if isinstance(base, td.Geometric):
        weights = (x + 1) * over_p
        return Jumps(x + 1, weights, -torch.ones_like(weights))
    if isinstance(base, td.NegativeBinomial):
        weights = (x + base.total_count.unsqueeze(-1)) * over_q
        return Jumps(x + 1, weights, torch.ones_like(weights))
    n = base.total_count.detach().unsqueeze(-1)
    right = p <= q
    step = torch.where(right, 1.0, -1.0).to(p.dtype)
    # To the right (n - x) / q, else x / p. `where` is slow, so it is applied to small tensors only.
    left = torch.addcmul(torch.where(right, n, 0).to(p.dtype), step, noise.promote(x), value=-1)
    weights = left * torch.where(right, over_q, over_p)
    return Jumps(x + step, weights, step.expand(x.shape))


def _rarer_value(variables: Bernoullis, x: Tensor) -> Jumps:
    """A bit jumps to its rarer value, with the probability of that value."""
    logits = variables.logits.detach()
    rarer = (logits <= 0).to(logits.dtype)
    weights = (rarer - x).abs() * variables.rarer
    directions = (2 * rarer - 1).expand(x.shape)
    return Jumps(rarer.expand(x.shape).unsqueeze(-1), weights.unsqueeze(-1), directions.unsqueeze(-1))


def _next_class(variables: Integers, x: Tensor) -> Jumps:
    """To the next possible class on either side, if it is less probable. ∂F/∂logit_c is π_c (1[c is below] - F)."""
    pi = variables.fixed_probs  # [*batch, *variables, C]
    count, tiny = pi.shape[-1], torch.finfo(pi.dtype).tiny
    classes, x = torch.arange(count, device=x.device), x.unsqueeze(-1)
    upto, onward = pi.cumsum(-1), pi.flip(-1).cumsum(-1).flip(-1)  # both include the class itself

    def at(index: Tensor, numbers: Tensor) -> Tensor:
        return numbers.expand(*x.shape[:-1], count).gather(-1, index)  # [k, *batch, *variables, 1]

    def side(rightward: bool) -> tuple[Tensor, Tensor, Tensor]:
        # The probabilities below and above the edge. Computed as 1 - F or F - π, they would lose digits.
        below = at(x, upto if rightward else functional.pad(upto[..., :-1], (1, 0)))
        above = at(x, functional.pad(onward[..., 1:], (0, 1)) if rightward else onward)
        ahead = (pi > 0) & (classes > x if rightward else classes < x)
        neighbour = torch.where(ahead, count - classes if rightward else classes, -1).argmax(-1, keepdim=True)
        here, there = at(x, pi), at(neighbour, pi)
        starts = here >= there if rightward else here > there
        weight = torch.where(starts, below * above / here, 0.0)  # half of Σ_c |∂F/∂logit_c| / π(x), 0 at both ends
        lower = classes <= x if rightward else classes < x
        direction = torch.where(lower, -pi / below.clamp_min(tiny), pi / above.clamp_min(tiny))
        return neighbour, weight, (direction if rightward else -direction).unsqueeze(-2)

    (right, right_weight, right_direction), (left, left_weight, left_direction) = side(True), side(False)
    return Jumps(
        torch.cat((right, left), -1),
        torch.cat((right_weight, left_weight), -1),
        torch.cat((right_direction, left_direction), -2),  # [k, *batch, *variables, sides, C]
    )
