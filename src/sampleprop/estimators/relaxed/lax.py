"""LAX: a learned function of the sample as a control variate, for continuous samples.

Source: Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), "Backpropagation through the void: Optimizing control variates for
black-box gradient estimation", sec. 3.
Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, average
from sampleprop.estimator import Estimator
from sampleprop.estimators.relaxed.critic import QuadraticCritic, value_and_slopes
from sampleprop.families import Variables, recognize, with_parameters
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import surrogate, train, unsqueeze_to
from sampleprop.tracing import value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    derivatives: tuple[Tensor, ...]  # [k, *batch, *event] each: of the points, by each of the distribution's parameters
    probes: None = None


class LAX(Estimator[Variables, Draw]):
    r"""Subtracts a learned function of the sample, scored, and adds it back through the reparameterization.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \big(f(x_i) - c_\psi(x_i)\big) \nabla_\phi \log p_\phi(x_i)
            + \nabla_\phi c_\psi(g(\phi, \varepsilon_i)), \qquad x_i = g(\phi, \varepsilon_i)

    Unbiased for every critic c that is differentiable. f may be a black box, with jumps: k evaluations. The
    distribution needs `rsample`, and coordinates that are independent given its parameters (Normal, Gamma, Laplace, ...;
    not MultivariateNormal), which it keeps under their names.

    The critic learns to minimize the variance of the gradient by the distribution's parameters; for that it must be
    differentiable twice.

    Args:
        samples: k, at least 1.
        critic: c, from points [k, \*batch, \*event], and the context [\*batch, ...] if one is given, to [k, \*batch];
            a module, if it is to learn; any other function stays as it is. None for a quadratic function that starts at 0,
            with the same coefficients for every event shape: complete for up to eight coordinates, smooth along the event
            beyond.

    Raises:
        ValueError: for arguments out of range, and when the critic returns another shape.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> estimator = sp.LAX()
        >>> optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)
        >>> sp.expect(lambda x: (x > 0).float().sum(-1), q, estimator).backward()
        >>> optimizer.step()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = cited("grathwohl2018backpropagation", "sec. 3")

    def __init__(self, samples: int = 1, *, critic: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        checks.samples("LAX", samples)
        self.samples = samples
        self.critic = critic
        self.quadratic = QuadraticCritic() if critic is None else None

    def refuses(self, variables: Variables) -> str | None:
        base, got = variables.base, f"got {variables.kind}"
        if variables.is_discrete:
            return f"LAX needs a continuous distribution; {got}. Use RELAX, its counterpart for discrete samples."
        if not variables.dist.has_rsample:
            return f"LAX needs a distribution with rsample; {got}, which has none. Use ScoreFunction."
        if isinstance(base, Reparameterized) and base.periodic:
            return (
                f"LAX needs samples that move without a jump, as its critic is differentiated through them; {got}, whose angles "
                "pass from π to -π. Use Pathwise for an f of period 2π, or ScoreFunction."
            )
        moving = checks.moving_refusal(self.name, variables, "Use Pathwise.")
        if moving is not None:
            return moving
        if base.event_shape:
            return f"LAX needs coordinates that are independent given the parameters; {got}. Use ScoreFunction or Pathwise."
        try:
            _ = variables.parameters
        except TypeError as error:
            return f"LAX differentiates by the distribution's own parameters. {error}"
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        named = variables.parameters

        def sample(*tensors: Tensor) -> Tensor:
            moved = with_parameters(variables.dist, dict(zip(named, tensors, strict=True)))
            return recognize(moved).rsample(1, generator).squeeze(0)

        # Each sample gets its own copy of the parameters; coordinate by coordinate, one pullback is the whole Jacobian.
        copies = tuple(p.detach().expand(self.draws, *p.shape) for p in named.values())
        with torch.no_grad():
            return Draw(*value_and_grad(sample, *copies))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        batch_ndim = len(variables.batch_shape)

        # A plain function has nothing to learn. It may close over θ, so it is evaluated without gradient.
        learn = self.training and (self.quadratic is not None or isinstance(self.critic, nn.Module))
        with nullcontext() if learn else torch.no_grad():
            c, slopes = value_and_slopes(  # [k, *batch] and [k, *batch, *event], attached to ψ
                self.name, self.critic, self.quadratic, draw.points, len(variables.event_shape), costs.context
            )
            excess = unsqueeze_to(costs.fixed - c, slopes.dim())
            gradients = tuple(
                # A parameter may have further dimensions: the components of a mixture.
                average(
                    unsqueeze_to(excess, score.dim()) * score + derivative * unsqueeze_to(slopes, score.dim()),
                    costs.keep,
                )
                for score, derivative in zip(variables.scores(draw.points), draw.derivatives, strict=True)
            )
        parameters = tuple(variables.parameters.values())
        result = surrogate(self.name, costs.mean(), parameters, tuple(g.detach() for g in gradients))
        if learn:
            squares = torch.stack([g.square().unsqueeze(-1).flatten(batch_ndim).sum(-1) for g in gradients])
            result = train(result, squares.sum(0))  # [*batch]
        return result
