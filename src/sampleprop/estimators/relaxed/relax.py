"""RELAX: a learned function of the relaxed sample as a control variate.

Source: [grathwohl2018backpropagation], sec. 3. Differences from the paper: the derivatives of z̃ are in closed form;
the critic sees relaxed points, not z; the coupled form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, Softening
from sampleprop.estimator import Estimator
from sampleprop.estimators.relaxed import conditional
from sampleprop.estimators.relaxed.conditional import Draw, relaxed_correction
from sampleprop.estimators.relaxed.critic import QuadraticCritic, critic_with_gradient
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import learning_surrogate, train


class RELAX(Estimator[Bernoullis | OneHots, Draw]):
    r"""Subtracts a learned critic at a relaxed sample from the cost, and adds its reparameterized gradient back.

    .. math::

        \nabla_\phi L \approx \big(f(x) - c(\tilde s)\big) \nabla_\phi \log p_\phi(x)
            + \nabla_\phi c(s) - \nabla_\phi c(\tilde s)

        c = \eta f + r_\psi, \quad s = \sigma(z / \tau), \quad \tilde s = \sigma(\tilde z / \tau)

    This is :class:`REBAR` with a critic r beside f, or with the critic alone (`use_f=False`). With r = 0 it is REBAR.

    Unbiased for every critic, η and τ. With f in the control variate, f must be defined and differentiable between the
    discrete points; each sample takes three evaluations of f and two backward passes (two and one if `coupled`). With
    the critic alone f may be a black box, and is evaluated once for each sample.

    The critic, η (`eta`) and log τ (`log_temperature`) learn to minimize the variance of the gradient with respect to
    the logits. The critic must be differentiable in the points, and twice differentiable if it is trained. To train τ,
    f must have finite second derivatives and must not use τ itself, as in :class:`REBAR`.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        critic: r, from relaxed points [m, \*batch, \*event], and the context [\*batch, ...] if one is given, to [m,
            \*batch]. It learns if it is a module; any other function stays as it is. None for a quadratic function that
            starts at 0, with the same coefficients for every event shape. For up to eight coordinates it can be any
            quadratic function; for more, its coefficients vary slowly along the event.
        use_f: whether f is part of the control variate.
        coupled: whether z is used as z̃.
        temperature: τ at the start, above 0.
        eta: η at the start.
        learn: whether η, τ and the critic are trained.
        allow_steps: accept a cost with a step (round, sign) between the outcomes. The derivative ignores the step,
            which causes a bias.

    Raises:
        ValueError: for arguments out of range, when `combine` is not given f and needs it, and when the critic returns
            another shape.
        RuntimeError: for a cost with no path to x, and with a step on it, unless `allow_steps`; for a critic with a
            step.

    Example, for p = 1/2, τ = 1, the critic s² alone, f = 4x and x = 1. z = 0: s = 1/2, and ds/dz = 1/4 gives the path
    1 · 1/4. z̃ = log 3: s̃ = 3/4, c = 9/16, ds̃/dz̃ = 3/16 and dz̃/dφ = 1 - (1/2) / (3/4) = 1/3 give
    3/2 · 3/16 · 1/3 = 3/32. With the score 1/2, the gradient is (4 - 9/16) / 2 + 1/4 - 3/32 = 15/8:

        >>> import math, torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> draw = Draw(*torch.tensor([[1.0], [0.0], [math.log(3)]]))
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.RELAX(critic=torch.square, use_f=False, temperature=1.0)
        >>> loss = estimator.combine(q, draw, 4 * draw.points)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(4.), tensor(1.8750))

    A critic for a batch. Points are [m, \*batch, \*event], so a network sees the event in the last dimension, and the
    one number that it returns for each point loses its dimension. It learns from the same backward pass:

        >>> critic = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1), torch.nn.Flatten(-2)
        ... )
        >>> estimator = sp.RELAX(critic=critic, use_f=False)
        >>> logits = torch.zeros(5, 3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: x.sum(-1).square(), q, estimator).mean().backward()
        >>> logits.grad.shape, critic[0].weight.grad.shape
        (torch.Size([5, 3]), torch.Size([16, 3]))
    """

    unbiased = True
    exact_forward = True
    family = "control variates"
    source = cited("grathwohl2018backpropagation", "sec. 3")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        critic: Callable[..., Tensor] | None = None,
        use_f: bool = True,
        coupled: bool = False,
        temperature: float = 0.5,
        eta: float = 1.0,
        learn: bool = True,
        allow_steps: bool = False,
    ) -> None:
        super().__init__()
        checks.samples("RELAX", samples, optional=True)
        checks.positive("RELAX", "temperature", temperature)
        checks.finite_number("RELAX", "eta", eta)
        self.samples = samples
        self.critic = critic
        self.quadratic = QuadraticCritic() if critic is None else None
        self.use_f = use_f
        self.coupled = coupled
        self.learn = learn
        self.allow_steps = allow_steps
        self.eta = nn.Parameter(torch.tensor(float(eta)), requires_grad=learn and use_f)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn)
        self.needs = "relaxed" if use_f else "black box"
        self.calls_f = use_f

    @property
    def temperature(self) -> Tensor:
        """τ as it is now."""
        return self.log_temperature.exp()

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        relaxed = self.draws * (1 if self.coupled else 2) if self.use_f else 0
        return self.draws + relaxed, relaxed

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return conditional.propose(variables, self.draws, self.coupled, generator)

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        learn = self.training and self.learn
        tau, softening = self.log_temperature, Softening(self.log_temperature)
        by_temperature = learn and tau.requires_grad
        gradient = conditional.weighted(variables, draw, costs.fixed, costs)  # [*batch, *event]
        learned: list[tuple[Tensor, Tensor]] = []
        if self.use_f:
            f = conditional.with_gradient(costs.f)
            h, of_f = relaxed_correction(variables, draw, f, softening, costs, by_temperature)
            gradient = gradient + self.eta.detach().to(h) * h
        critic: Any = self.critic if self.quadratic is None else self.quadratic
        c, of_critic = critic_with_gradient(self.name, critic, variables.event_ndim, costs.context), None
        module = isinstance(critic, nn.Module)
        if module:
            with nullcontext() if learn else torch.no_grad():
                # Attached to ψ and τ: the loss of `train` differentiates the gradient of the critic once more.
                squashed = partial(conditional.squashed, variables, softening=softening, c=c)
                gradient = gradient + conditional.correction(variables, draw, squashed, costs)
        else:  # A plain function may close over θ, so it is evaluated without gradient.
            added, of_critic = relaxed_correction(variables, draw, c, softening, costs, by_temperature)
            gradient = gradient + added
        fixed = gradient.detach()
        if learn and self.use_f:
            learned += conditional.tuned(variables, fixed, self.eta, tau, h, of_f)
        if of_critic is not None:
            learned.append((tau, of_critic(2 * fixed)))
        result = learning_surrogate(self.name, costs.mean(), variables.logits, fixed, learned)
        return train(result, variables.sum(gradient.square())) if learn and module else result
