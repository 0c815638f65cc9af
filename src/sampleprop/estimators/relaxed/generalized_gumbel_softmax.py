"""Generalized Gumbel-softmax: a count as the relaxed expectation of its outcomes.

Source: [joo2020generalized]. Differences from the paper: the number of outcomes is given, instead of found from the
mass that is cut off.
"""

from __future__ import annotations

import math

import torch
import torch.distributions as td
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered
from sampleprop.families import Variables, unwrap, with_parameters
from sampleprop.tracing import inspectable

LARGEST_TAIL = 1e-3  # the probability of counts beyond the last outcome that is let pass


class GeneralizedGumbelSoftmax(Tempered[Variables]):
    r"""Replaces a count by the average of its possible values under a Gumbel-softmax, and differentiates f there.

    .. math::

        x_i = \sum_{c=0}^{n-1} c\, \operatorname{softmax}\bigl((\log \pi + G_i)/\tau\bigr)_c, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    G is Gumbel noise, and :math:`\pi_c = p_\phi(c)`; the last outcome stands for all counts above it too. Unbiased for
    the relaxed problem E[f(x)]. Its value and its gradients, for θ too, are not those of L. They tend to those of L as
    τ → 0 and n → ∞, while the variance grows. f must be defined and differentiable between the counts. The variables
    are Poisson, Binomial, Geometric or NegativeBinomial. k evaluations of f and k backward passes, and n numbers of
    noise for each count.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        outcomes: n, at least 2: larger than any count whose probability matters.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range, and when counts exceed the last outcome with a probability above 10⁻³.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for a Poisson count of rate λ = log 4, n = 2, τ = 1/2 and the noise 0: π = (e^-λ, 1 - e^-λ) = (1/4, 3/4),
    and x = π₁² / (π₀² + π₁²) = 9/10. log(π₁ / π₀) has the derivative 4/3, so that dx/dλ = x (1 - x) / τ · 4/3 = 6/25.
    With f = 10x², the value is 81/10, and the gradient is 20x dx/dλ = 108/25:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> rate = torch.tensor(4.0).log().requires_grad_()
        >>> q = torch.distributions.Poisson(rate)
        >>> estimator = sp.GeneralizedGumbelSoftmax(outcomes=2)
        >>> logits, _ = outcomes_of(sp.families.recognize(q), 2)
        >>> draw = Draw(estimator.points_from(logits, torch.zeros(1, 2)))
        >>> loss = estimator.combine(q, draw, 10 * draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), rate.grad
        (tensor(8.1000), tensor(4.3200))
    """

    exact_forward = False
    needs = "relaxed"
    family = "relaxations"
    aliases = ("GenGS",)
    source = cited("joo2020generalized")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        outcomes: int = 32,
        temperature: float = 0.5,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)
        checks.samples("GeneralizedGumbelSoftmax", outcomes, least=2, argument="outcomes")
        self.outcomes = outcomes

    def refuses(self, variables: Variables) -> str | None:
        if type(variables.base) not in (td.Poisson, td.Binomial, td.Geometric, td.NegativeBinomial):
            return (
                "GeneralizedGumbelSoftmax needs Poisson, Binomial, Geometric or NegativeBinomial; got "
                f"{variables.kind}. Use GumbelSoftmax for bits and classes, or ScoreFunction for any distribution."
            )
        return None

    def points(self, variables: Variables, generator: Generator | None) -> Tensor:
        logits, beyond = outcomes_of(variables, self.outcomes)
        if inspectable(beyond) and beyond.numel() and float(beyond.max()) > LARGEST_TAIL:
            raise ValueError(
                f"GeneralizedGumbelSoftmax needs outcomes above any count that matters; got outcomes={self.outcomes}, "
                f"which counts exceed with probability {float(beyond.max()):.2g}. Pass a larger number of outcomes, at "
                f"most {LARGEST_TAIL:g} should lie beyond, or use MeasureValued."
            )
        return self.points_from(logits, noise.gumbel((self.draws, *logits.shape), logits, generator))

    def points_from(self, logits: Tensor, noise: Tensor) -> Tensor:
        """The relaxed counts for log π and this noise: [k, *batch, *event, outcomes] -> [k, *batch, *event]."""
        weights = ((logits + noise) / self.temperature).softmax(-1)
        return (weights * torch.arange(self.outcomes, device=weights.device)).sum(-1)


def outcomes_of(variables: Variables, outcomes: int) -> tuple[Tensor, Tensor]:
    """log π, [*batch, *event, outcomes], and the probability of counts beyond the last outcome, without graph."""
    raised = {name: noise.promote(parameter) for name, parameter in variables.parameters.items()}
    base, _ = unwrap(with_parameters(variables.dist, raised))
    like = next(iter(raised.values()))
    counts = torch.arange(outcomes, dtype=like.dtype, device=like.device).reshape(-1, *(1,) * len(base.batch_shape))
    if isinstance(base, td.Binomial):
        possible = counts <= base.total_count
        each = base.log_prob(torch.minimum(counts, base.total_count)).masked_fill(~possible, -math.inf)
    else:
        each = base.log_prob(counts)  # of each count by itself
    rest = 1 - each[:-1].exp().sum(0, keepdim=True)  # of the last one and all beyond
    beyond = (rest - each[-1:].exp()).detach()
    # Where nothing is left, or only rounding, the logarithm must not have a gradient of NaN.
    left = (rest > 0) & (each[-1:] > -math.inf)
    last = torch.where(left, torch.where(left, rest, 1.0).log(), -math.inf)
    return torch.cat((each[:-1], last)).movedim(0, -1), beyond
