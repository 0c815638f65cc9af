"""Jumps of ordered outcomes: to which neighbour a small change of φ would move a sample, and at which rate.

Of a count with distribution function F, by inversion of which it is drawn, the samples at x jump to x + 1 at the rate
-∇F(x) / p(x). The mass that crosses the edge between the two can as well be taken from the other side, x + 1 jumping to x at
the rate ∇F(x) / p(x + 1), or from both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn import functional

from sampleprop import noise
from sampleprop.families import Discrete, Integers, OneHots, Variables

COUNTS = (td.Poisson, td.Binomial, td.Geometric, td.NegativeBinomial)


class Jumps(NamedTuple):
    neighbours: Tensor  # [k, *batch, *event, sides], where each coordinate jumps to; anything where the weight is 0
    weights: Tensor  # [k, *batch, *event, sides], the rate
    directions: Tensor  # [k, *batch, *event, sides], or [..., sides, C] for integers: the gradient for a weight of 1


def refusal(name: str, variables: Variables) -> str | None:
    """Why the outcomes are not known to be in an order with known rates, with the fix; None if they are."""
    base = variables.base
    if isinstance(variables, OneHots):
        return (
            f"{name} needs outcomes in an order; got OneHotCategorical. Use Categorical if the order of the classes means "
            "something, else LocalExpectation or ScoreFunction."
        )
    if not isinstance(variables, Discrete) and type(base) not in COUNTS:
        return (
            f"{name} needs Bernoulli, Binomial, Poisson, Geometric, NegativeBinomial or Categorical; got "
            f"{type(base).__name__}. Use ScoreFunction for any distribution, or Pathwise for one with rsample."
        )
    if isinstance(base, td.NegativeBinomial) and base.total_count.requires_grad:
        return (
            f"{name} needs a total_count without gradient for NegativeBinomial; got one that requires it, and its rate has "
            "no simple form. Use ScoreFunction, or detach total_count."
        )
    return None


def parameter_of(variables: Variables) -> tuple[str, Tensor]:
    """The parameter as it was given: torch puts the other spelling beside it once that has been asked for."""
    if isinstance(variables, Discrete):
        return "logits", variables.logits
    return next((name, value) for name, value in vars(variables.base).items() if name in ("rate", "probs", "logits"))


def jumps(variables: Variables, x: Tensor) -> Jumps:
    """The jumps of each coordinate, from the side of the smaller rate where both are simple."""
    if isinstance(variables, Integers):
        return _next_class(variables, x)
    base: Any = variables.base
    name, parameter = parameter_of(variables)
    x, parameter = x.unsqueeze(-1), noise.promote(parameter).unsqueeze(-1)
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
    n = 1 if isinstance(variables, Discrete) else base.total_count.unsqueeze(-1)
    right = p <= q
    step = torch.where(right, 1.0, -1.0).to(p.dtype)
    # To the right (n - x) / q, else x / p: only what is small is chosen, as `where` is slow.
    weights = (torch.where(right, n, 0) - step * x) * torch.where(right, over_q, over_p)
    return Jumps(x + step, weights, step.expand(x.shape))


def _next_class(variables: Integers, x: Tensor) -> Jumps:
    """To the next possible class on either side, if it is less probable: ∂F/∂logit_c = π_c (1[c below] - F)."""
    pi = variables.probs  # [*batch, *variables, C]
    count, tiny = pi.shape[-1], torch.finfo(pi.dtype).tiny
    classes, x = torch.arange(count, device=x.device), x.unsqueeze(-1)
    upto, onward = pi.cumsum(-1), pi.flip(-1).cumsum(-1).flip(-1)  # both with the class itself

    def at(index: Tensor, numbers: Tensor) -> Tensor:
        return numbers.expand(*x.shape[:-1], count).gather(-1, index)  # [k, *batch, *variables, 1]

    def side(rightward: bool) -> tuple[Tensor, Tensor, Tensor]:
        # The probabilities below and above the edge; a difference with π would cancel.
        below = at(x, upto if rightward else functional.pad(upto[..., :-1], (1, 0)))
        above = at(x, functional.pad(onward[..., 1:], (0, 1)) if rightward else onward)
        ahead = (pi > 0) & (classes > x if rightward else classes < x)
        neighbour = torch.where(ahead, count - classes if rightward else classes, -1).argmax(-1, keepdim=True)
        here, there = at(x, pi), at(neighbour, pi)
        starts = here >= there if rightward else here > there
        weight = torch.where(starts, below * above / here, 0.0)  # half of Σ_c |∂F/∂logit_c| / π(x); 0 at either end
        lower = classes <= x if rightward else classes < x
        direction = torch.where(lower, -pi / below.clamp_min(tiny), pi / above.clamp_min(tiny))
        return neighbour, weight, (direction if rightward else -direction).unsqueeze(-2)

    (right, right_weight, right_direction), (left, left_weight, left_direction) = side(True), side(False)
    return Jumps(
        torch.cat((right, left), -1),
        torch.cat((right_weight, left_weight), -1),
        torch.cat((right_direction, left_direction), -2),  # [k, *batch, *variables, sides, C]
    )
