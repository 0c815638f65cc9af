"""RELAX: a learned function of the relaxed sample as a control variate.

Source: Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), "Backpropagation through the void: Optimizing control variates for
black-box gradient estimation", sec. 3.
Differences from the paper: the derivatives of z̃ are in closed form; the critic sees relaxed points, not z; the coupled
form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, average
from sampleprop.estimator import Estimator
from sampleprop.estimators.relaxed.conditional import (
    Draw,
    correction,
    propose,
    relaxed_correction,
    squashed,
    with_slopes,
)
from sampleprop.estimators.relaxed.critic import QuadraticCritic, value_and_slopes
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class RELAX(Estimator[Bernoullis | OneHots, Draw]):
    r"""Subtracts a learned function of the relaxed sample, scored, and adds it back through the relaxation.

    .. math::

        \nabla_\phi L \approx \big(f(x) - c(\tilde s)\big) \nabla_\phi \log p_\phi(x)
            + \nabla_\phi c(s) - \nabla_\phi c(\tilde s), \qquad
        c = \eta f + r_\psi, \quad s = \sigma(z / \tau), \quad \tilde s = \sigma(\tilde z / \tau)

    As :class:`REBAR`, which it is for r = 0, with a critic r beside f; or with the critic alone (`use_f=False`).

    Unbiased for every critic, η and τ. With f in the control variate, f must be defined and differentiable between the
    discrete points, and each sample takes three evaluations of f and two backward passes (two and one if `coupled`).
    With the critic alone f may be a black box, and is evaluated once for each sample.

    The critic, η (`eta`) and log τ (`log_temperature`) learn to minimize the variance of the gradient by the logits.
    The critic must be differentiable in the points, and to train it twice.

    Args:
        samples: k, at least 1.
        critic: r, from relaxed points [m, \*batch, \*event], and the context [\*batch, ...] if one is given, to
            [m, \*batch]; a module, if it is to learn; any other function stays as it is. None for a quadratic function that
            starts at 0, with the same coefficients for every event shape: complete for up to eight coordinates, smooth
            along the event beyond.
        use_f: whether f is part of the control variate.
        coupled: whether z is used as z̃.
        temperature: τ at the start, above 0.
        eta: η at the start.
        learn: whether η, τ and the critic are trained.

    Raises:
        ValueError: for arguments out of range, when `combine` is not given f and needs it, and when the critic returns
            another shape.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> critic = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Flatten(0))
        >>> estimator = sp.RELAX(critic=critic, use_f=False)
        >>> sp.expect(lambda x: (x.sum(-1) > 1).float(), q, estimator).backward()
    """

    unbiased = True
    exact_forward = True
    source = cited("grathwohl2018backpropagation", "sec. 3")

    def __init__(
        self,
        samples: int = 1,
        *,
        critic: Callable[..., Tensor] | None = None,
        use_f: bool = True,
        coupled: bool = False,
        temperature: float = 0.5,
        eta: float = 1.0,
        learn: bool = True,
    ) -> None:
        super().__init__()
        checks.samples("RELAX", samples)
        checks.positive("RELAX", "temperature", temperature)
        if not math.isfinite(eta):
            raise ValueError(f"RELAX needs a finite eta; got {eta}.")
        self.samples = samples
        self.critic = critic
        self.quadratic = QuadraticCritic() if critic is None else None
        self.use_f = use_f
        self.coupled = coupled
        self.learn = learn
        self.eta = nn.Parameter(torch.tensor(float(eta)), requires_grad=learn and use_f)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn)
        self.needs = "relaxed" if use_f else "black box"
        self.calls_f = use_f

    @property
    def temperature(self) -> Tensor:
        """τ as it is now."""
        return self.log_temperature.exp()

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        if not self.use_f:
            return self.draws, 0
        relaxed = self.draws if self.coupled else 2 * self.draws
        return self.draws + relaxed, relaxed

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return propose(variables, self.draws, self.coupled, generator)

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        learn = self.training and self.learn
        score = variables.score(draw.points)
        gradient = average(unsqueeze_to(costs.fixed, score.dim()) * score, costs.keep)  # [*batch, *event]
        slopes: list[tuple[Tensor | float, Callable[[Tensor], Tensor] | None]] = []  # by log τ, and what they count
        by_temperature = learn and self.log_temperature.requires_grad
        if self.use_f:
            h, slope = relaxed_correction(
                variables, draw, with_slopes(costs.f), self.log_temperature, costs.keep, by_temperature
            )
            gradient = gradient + self.eta.to(gradient) * h
            slopes.append((self.eta, slope))

        def at(points: Tensor) -> tuple[Tensor, Tensor]:
            return value_and_slopes(self.name, self.critic, self.quadratic, points, variables.event_ndim, costs.context)

        # A critic that is no module is treated like f: it may hold on to θ, which must hear nothing of the variance.
        own = self.quadratic is not None or isinstance(self.critic, nn.Module)
        if own:
            with nullcontext() if learn else torch.no_grad():
                # Attached to ψ and τ: what the critic's slopes are made of is itself differentiated, by train's loss.
                gradient = gradient + correction(
                    variables, draw, lambda z: squashed(variables, z, self.log_temperature, at), costs.keep
                )
        else:
            h, slope = relaxed_correction(variables, draw, at, self.log_temperature, costs.keep, by_temperature)
            gradient = gradient + h
            slopes.append((1.0, slope))
        result = surrogate(self.name, costs.mean(), (variables.logits,), (gradient.detach(),))
        if learn:
            loss = variables.sum(gradient.square())
            for weight, slope in slopes:
                if slope is not None:
                    row = slope((2 * weight * gradient).detach())
                    loss = loss + row * (self.log_temperature - self.log_temperature.detach())
            result = train(result, loss)
        return result
