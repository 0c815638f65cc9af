"""REBAR: the relaxed sample as a control variate.

Source: [tucker2017rebar], sec. 3. Differences from the paper: the derivatives of z̃ are in closed form.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.baselines.learned import LearnedBaseline
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, Softening
from sampleprop.estimator import Estimator
from sampleprop.estimators.relaxed.conditional import (
    Draw,
    propose,
    relaxed_correction,
    tuned,
    weighted,
    with_gradient,
)
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import learning_surrogate, train


class REBAR(Estimator[Bernoullis | OneHots, Draw]):
    r"""Subtracts f at a relaxed sample from the cost, and adds its reparameterized gradient back.

    .. math::

        \nabla_\phi L \approx \big(f(x) - \eta f(\tilde s)\big) \nabla_\phi \log p_\phi(x)
            + \eta \nabla_\phi f(s) - \eta \nabla_\phi f(\tilde s), \qquad
        s = \sigma(z / \tau), \quad \tilde s = \sigma(\tilde z / \tau)

    z are the noisy logits of which x is the sign or the maximum. z̃ are drawn anew, given x, and are also
    differentiated with respect to φ. σ is the sigmoid or the softmax. Averaged over the samples.

    Unbiased for every η and τ. f must be defined and differentiable between the discrete points, but its values there
    change only the variance. Three evaluations of f for each sample and two backward passes for φ. With `coupled`, z
    serves as z̃
    too: two evaluations and one backward pass. This saves time, but does not reduce the variance. η (`eta`) and log τ
    (`log_temperature`) learn to minimize the variance of the gradient with respect to the logits. To train τ, f must
    have finite second derivatives, and must not use τ itself. `log_temperature.requires_grad_(False)` removes both
    conditions.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        coupled: whether z is used as z̃.
        mean_field: whether s = σ(z / τ + φ τ / (τ + 1)), which becomes the mean as τ grows, and not 1/2; s̃ likewise
            (appendix of the paper, on MuProp).
        baseline: `LearnedBaseline`, subtracted from the cost. It learns to minimize the variance, as η and τ do, and
            not the squared error.
        temperature: τ at the start, above 0.
        eta: η at the start; with 0 this is the score function.
        learn: whether η, τ and the baseline are trained.
        allow_steps: accept a cost with a step (round, sign) between the outcomes. The derivative ignores the step,
            which causes a bias.

    Raises:
        TypeError: for a baseline of another kind.
        ValueError: for arguments out of range, when `combine` is not given f, and for a second derivative that is not
            finite.
        RuntimeError: for a cost with no path to x, with a step on it unless `allow_steps`, and for an f that uses the
            temperature that learns. None of these is checked under `torch.compile` and `torch.func`.

    Example, for p = 1/2, τ = η = 1, f = 4x² and x = 1. z = 0: s = 1/2, and ds/dz = 1/4 gives the path 4 · 1/4 = 1.
    z̃ = log 3: s̃ = 3/4, f = 9/4, ds̃/dz̃ = 3/16 and dz̃/dφ = 1 - (1/2) / (3/4) = 1/3 give 6 · 3/16 · 1/3 = 3/8. With
    the score 1/2, the gradient is (4 - 9/4) / 2 + 1 - 3/8 = 3/2:

        >>> import math, torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> draw = Draw(*torch.tensor([[1.0], [0.0], [math.log(3)]]))
        >>> f = lambda x: 4 * x.square()
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.REBAR(temperature=1.0).combine(q, draw, f(draw.points), relaxed_f=f)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(4.), tensor(1.5000))
    """

    unbiased = True
    exact_forward = True
    needs = "relaxed"
    family = "control variates"
    calls_f = True
    source = cited("tucker2017rebar", "sec. 3")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        coupled: bool = False,
        mean_field: bool = False,
        baseline: LearnedBaseline | None = None,
        temperature: float = 0.5,
        eta: float = 1.0,
        learn: bool = True,
        allow_steps: bool = False,
    ) -> None:
        super().__init__()
        checks.samples("REBAR", samples, optional=True)
        checks.positive("REBAR", "temperature", temperature)
        checks.finite_number("REBAR", "eta", eta)
        if not (baseline is None or isinstance(baseline, LearnedBaseline)):
            raise TypeError(
                f"REBAR trains its baseline together with its control variate, and needs a LearnedBaseline; got "
                f"baseline={baseline!r}. Pass sp.LearnedBaseline(network), or use ScoreFunction."
            )
        self.samples = samples
        self.coupled = coupled
        self.mean_field = mean_field
        self.baseline = baseline
        self.learn = learn
        self.allow_steps = allow_steps
        self.eta = nn.Parameter(torch.tensor(float(eta)), requires_grad=learn)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn)

    @property
    def temperature(self) -> Tensor:
        """τ as it is now."""
        return self.log_temperature.exp()

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        relaxed = self.draws if self.coupled else 2 * self.draws
        return self.draws + relaxed, relaxed

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return propose(variables, self.draws, self.coupled, generator)

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        learn = self.training and self.learn
        by_temperature = learn and self.log_temperature.requires_grad
        softening = Softening(self.log_temperature, self.mean_field)
        h, pullback = relaxed_correction(variables, draw, with_gradient(costs.f), softening, costs, by_temperature)
        gradient = weighted(variables, draw, costs.fixed, costs) + self.eta.detach().to(h) * h  # [*batch, *event]
        if self.baseline is not None:  # constant in x, so that its product with the score has mean zero
            with nullcontext() if learn else torch.no_grad():
                b = self.baseline.value(variables, draw.points, costs.detach())  # [k, *batch]
                gradient = gradient - weighted(variables, draw, b, costs)  # attached to the baseline
        fixed = gradient.detach()
        learned = tuned(variables, fixed, self.eta, self.log_temperature, h, pullback) if learn else ()
        result = learning_surrogate(self.name, costs.mean(), variables.logits, fixed, learned)
        if self.baseline is None or not learn:
            return result
        return train(result, variables.sum(gradient.square()))
