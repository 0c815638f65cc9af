"""Generalized Gumbel-softmax: a count as the relaxed expectation of its outcomes.

Source: Joo, Kim, Shin and Moon (2020), "Generalized Gumbel-softmax gradient estimator for generic discrete random
variables".
Differences from the paper: the number of outcomes is given, instead of found from the mass that is cut off.
"""

from __future__ import annotations

import math

import torch
import torch.distributions as td
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation
from sampleprop.families import Variables, unwrap, with_parameters


class GeneralizedGumbelSoftmax(Relaxation[Variables]):
    r"""Replaces a count by the average of its possible values under a Gumbel-softmax, and differentiates f there.

    .. math::

        x_i = \sum_{c=0}^{n-1} c\, \operatorname{softmax}\bigl((\log \pi + G_i)/\tau\bigr)_c, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with :math:`\pi_c = p_\phi(c)`, the last one with all that lies above it, and Gumbel noise G. Unbiased for the relaxed
    problem E[f(x)], whose value and gradient (for θ too) are not those of L; both tend to them as τ → 0 and n → ∞, while the
    variance grows. f must be defined and differentiable between the counts. The variables are Poisson, Binomial, Geometric
    or NegativeBinomial. k evaluations of f and k backward passes, and n numbers of noise for each count.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        outcomes: n, at least 2: larger than any count of which the probability matters.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower in the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> rate = torch.full((3,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.GeneralizedGumbelSoftmax(4, outcomes=16)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    source = cited("joo2020generalized")
    temperature: Tensor

    def __init__(
        self,
        samples: int | None = 1,
        *,
        outcomes: int = 32,
        temperature: float = 0.5,
        allow_unused: bool = False,
    ) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})
        checks.positive(self.name, "outcomes", outcomes, least=2)
        self.outcomes = outcomes

    def refuses(self, variables: Variables) -> str | None:
        if type(variables.base) not in (td.Poisson, td.Binomial, td.Geometric, td.NegativeBinomial):
            return (
                "GeneralizedGumbelSoftmax needs Poisson, Binomial, Geometric or NegativeBinomial; got "
                f"{variables.kind}. Use GumbelSoftmax for bits and classes, or ScoreFunction for any distribution."
            )
        return None

    def points(self, variables: Variables, generator: Generator | None) -> Tensor:
        logits = _logits(variables, self.outcomes)
        return _relaxed(logits, noise.gumbel((self.draws, *logits.shape), logits, generator), self.temperature)


def _logits(variables: Variables, outcomes: int) -> Tensor:
    """The log-probabilities of 0 to outcomes - 1, the last one of all from there: [*batch, *event, outcomes]."""
    raised = {name: noise.promote(parameter) for name, parameter in variables.parameters.items()}
    base, _ = unwrap(with_parameters(variables.dist, raised))
    like = next(iter(raised.values()))
    counts = torch.arange(outcomes, dtype=like.dtype, device=like.device).reshape(-1, *(1,) * len(base.batch_shape))
    possible = torch.ones_like(counts, dtype=torch.bool)
    if isinstance(base, td.Binomial):
        possible = counts <= base.total_count
        counts = torch.minimum(counts, base.total_count)
    logits = torch.where(possible[:-1], base.log_prob(counts[:-1]), -math.inf)
    rest = 1 - logits.exp().sum(0, keepdim=True)
    # Where nothing is left, or only rounding, the logarithm must not have a gradient of NaN.
    left = possible[-1:] & (rest > 0)
    last = torch.where(left, torch.where(left, rest, 1.0).log(), -math.inf)
    return torch.cat((logits, last)).movedim(0, -1)


def _relaxed(logits: Tensor, perturbation: Tensor, temperature: Tensor) -> Tensor:
    weights = ((logits + perturbation) / temperature).softmax(-1)
    return (weights * torch.arange(logits.shape[-1], device=logits.device)).sum(-1)
