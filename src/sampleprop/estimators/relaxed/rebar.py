"""REBAR: the relaxed sample as a control variate.

Source: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), "REBAR: Low-variance, unbiased gradient estimates for
discrete latent variable models", sec. 3.
Differences from the paper: the derivatives of z̃ are in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.relaxed.conditional import Draw, propose, relaxed_correction, with_slopes
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class REBAR(Estimator[Draw]):
    r"""Subtracts f at a relaxed sample, scored, and adds it back through the relaxation.

    .. math::

        \nabla_\phi L \approx \big(f(x) - \eta f(\tilde s)\big) \nabla_\phi \log p_\phi(x)
            + \eta \nabla_\phi f(s) - \eta \nabla_\phi f(\tilde s), \qquad
        s = \sigma(z / \tau), \quad \tilde s = \sigma(\tilde z / \tau)

    Here z are the noisy logits of which x is the sign or the maximum, z̃ are drawn again given x, with a derivative of
    their own, and σ is the sigmoid or the softmax. Averaged over the samples.

    Unbiased for every η and τ. f must be defined and differentiable between the discrete points, though not be right
    there. Three evaluations of f for each sample and two backward passes for φ. With `coupled`, z serves as z̃ too: two
    evaluations and one backward pass. That saves cost, not variance.

    η (`eta`) and log τ (`log_temperature`) are parameters that learn to minimize the variance of the gradient by the
    logits. Learning τ takes second derivatives of f; `estimator.log_temperature.requires_grad_(False)` saves them.

    Args:
        samples: k, at least 1.
        coupled: whether z is used as z̃.
        temperature: τ at the start, above 0.
        eta: η at the start; with 0 this is the score function.
        learn: whether η and τ are trained.

    Raises:
        ValueError: for arguments out of range, and when `combine` is not given f.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> estimator = sp.REBAR()
        >>> optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, estimator).backward()
        >>> optimizer.step()
    """

    unbiased = True
    exact_forward = True
    needs = "relaxed"
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="tucker2017rebar",
        authors="George Tucker and Andriy Mnih and Chris J. Maddison and Dieterich Lawson and Jascha Sohl-Dickstein",
        year=2017,
        title="REBAR: Low-variance, unbiased gradient estimates for discrete latent variable models",
        venue="Advances in Neural Information Processing Systems 30",
        arxiv="1703.07370",
        where="sec. 3",
    )

    def __init__(
        self,
        samples: int = 1,
        *,
        coupled: bool = False,
        temperature: float = 0.5,
        eta: float = 1.0,
        learn: bool = True,
    ) -> None:
        super().__init__()
        checks.samples("REBAR", samples)
        checks.positive("REBAR", "temperature", temperature)
        if not math.isfinite(eta):
            raise ValueError(f"REBAR needs a finite eta; got {eta}.")
        self.samples = samples
        self.coupled = coupled
        self.learn = learn
        self.eta = nn.Parameter(torch.tensor(float(eta)), requires_grad=learn)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learn)

    @property
    def temperature(self) -> Tensor:
        """τ as it is now."""
        return self.log_temperature.exp()

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        relaxed = self.draws if self.coupled else 2 * self.draws
        return self.draws + relaxed, relaxed

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return propose(families.variables(dist), self.draws, self.coupled, generator)

    def combine(
        self,
        dist: Distribution,
        draw: Draw,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        costs = checks.costs(self.name, dist, draw.points, costs, keep)
        if relaxed_f is None:
            raise ValueError("REBAR needs f at relaxed points; got none. Pass relaxed_f=f.")
        variables = families.variables(dist)
        score = variables.score(draw.points)
        plain = average(unsqueeze_to(costs.detach(), score.dim()) * score, keep)
        learn = self.training and self.learn
        h, slope = relaxed_correction(
            variables,
            draw,
            with_slopes(relaxed_f),
            self.log_temperature,
            keep,
            learn and self.log_temperature.requires_grad,
        )
        gradient = plain + self.eta.to(plain) * h  # [*batch, *event], attached to η
        result = surrogate(self.name, average(costs, keep), (variables.logits,), (gradient.detach(),))
        if learn:
            loss = variables.sum(gradient.square())
            if slope is not None:
                row = slope((2 * self.eta * gradient).detach())
                loss = loss + row * (self.log_temperature - self.log_temperature.detach())
            result = train(result, loss)
        return result

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return cls(), cls(coupled=True)

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, τ = η = 1, f = 4x². z = 0: s = 1/2, and ds/dz = 1/4 gives the path 4 · 1/4 = 1. z̃ = log 3: s̃ = 3/4,
        # f = 9/4, ds̃/dz̃ = 3/16, dz̃/dφ = 1 - (1/2) / (3/4) = 1/3 give 6 · 3/16 · 1/3 = 3/8. x = 1: score 1/2.
        # Together (4 - 9/4) / 2 + 1 - 3/8 = 3/2.
        return Worked(
            estimator=cls(temperature=1.0),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(*torch.tensor([[1.0], [0.0], [math.log(3)]], dtype=torch.float64)),
            f=lambda x: 4 * x.square(),
            value=torch.tensor(4.0, dtype=torch.float64),
            gradient=torch.tensor(1.5, dtype=torch.float64),
        )
