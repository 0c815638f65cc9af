"""LAX: a learned function of the sample as a control variate, for continuous samples.

Source: [grathwohl2018backpropagation], sec. 3. Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks, sums
from sampleprop.baselines.baseline import squared_length
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.relaxed.critic import QuadraticCritic, critic_with_gradient
from sampleprop.families import Normals, Variables, recognize, with_parameters
from sampleprop.families.parameters import asked
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import surrogate, train, unsqueeze_to
from sampleprop.tracing import value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    derivatives: tuple[Tensor, ...]  # [k, *batch, *event] each: of the points, with respect to each parameter
    probes: None = None


class LAX(Estimator[Variables, Draw]):
    r"""Subtracts a learned critic from the cost, and adds the critic's reparameterized gradient back.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \big(f(x_i) - c_\psi(x_i)\big) \nabla_\phi \log p_\phi(x_i)
            + \nabla_\phi c_\psi(g(\phi, \varepsilon_i)), \qquad x_i = g(\phi, \varepsilon_i)

    Unbiased for every critic c that is differentiable. f may be a black box, with jumps: k evaluations. The
    distribution needs `rsample`, and must keep its parameters under their names. Its coordinates must be independent
    given the parameters: Normal, Gamma, Laplace and the like, but not MultivariateNormal.

    The critic learns to minimize the variance of the gradient with respect to those parameters of the distribution that
    require one. For that it must be differentiable twice.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        critic: c, from points [k, \*batch, \*event], and the context [\*batch, ...] if one is given, to [k, \*batch].
            It learns if it is a module; any other function stays as it is. None for a quadratic function that starts at
            0, with the same coefficients for every event shape. For up to eight coordinates it can be any quadratic
            function; for more, its coefficients vary slowly along the event.

    Raises:
        ValueError: for arguments out of range, and when the critic returns another shape.
        RuntimeError: for a critic with a step (round, sign).

    Example, for a Normal with μ = 0 and σ = 1, f = 3x, x = 2 and the critic x². The score is 2, and dx/dμ = 1. The
    critic is 4, with the derivative 4, so that the gradient is (6 - 4) · 2 + 4 · 1 = 8:

        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Normal(mean, 1.0)
        >>> draw = Draw(torch.tensor([2.0]), (torch.tensor([1.0]), torch.tensor([2.0])))  # dx/dμ = 1, dx/dσ = 2
        >>> loss = sp.LAX(critic=torch.square).combine(q, draw, 3 * draw.points)
        >>> loss.backward()
        >>> loss.detach(), mean.grad
        (tensor(6.), tensor(8.))

    A critic for a batch, as in :class:`RELAX`. It must be smooth in the points:

        >>> critic = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1), torch.nn.Flatten(-2)
        ... )
        >>> mean = torch.zeros(5, 3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> sp.expect(lambda x: (x.sum(-1) > 0).float(), q, sp.LAX(critic=critic)).mean().backward()
        >>> mean.grad.shape, critic[0].weight.grad.shape
        (torch.Size([5, 3]), torch.Size([16, 3]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "control variates"
    source = cited("grathwohl2018backpropagation", "sec. 3")

    def __init__(self, samples: int | None = 1, *, critic: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        checks.samples("LAX", samples, optional=True)
        self.samples = samples
        self.critic = critic
        self.quadratic = QuadraticCritic() if critic is None else None

    def refuses(self, variables: Variables) -> str | None:
        base, got = variables.base, f"got {variables.kind}"
        if variables.is_discrete:
            return f"LAX needs a continuous distribution; {got}. Use RELAX, its counterpart for discrete samples."
        no_path = checks.rsample_refusal(self.name, variables, "ScoreFunction")
        if no_path is not None:
            return no_path
        if isinstance(base, Reparameterized) and base.periodic:
            return (
                "LAX needs samples that move without a jump, because its critic is differentiated through them; "
                f"{got}, whose angles pass from π to -π. Use Pathwise for an f of period 2π, or ScoreFunction."
            )
        moving = checks.moving_refusal(self.name, variables, "Use Pathwise.")
        if moving is not None:
            return moving
        if base.event_shape:
            fix = "Use ScoreFunction or Pathwise."
            return f"LAX needs coordinates that are independent given the parameters; {got}. {fix}"
        try:
            _ = variables.parameters
        except TypeError as error:
            return f"LAX differentiates with respect to the distribution's own parameters. {error}"
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        named = variables.parameters
        if isinstance(variables, Normals):
            points = variables.sample(self.draws, generator)
            return Draw(points, (torch.ones_like(named["loc"]).expand_as(points), variables.noise_of(points)))

        def sample(*tensors: Tensor) -> Tensor:
            moved = with_parameters(variables.dist, dict(zip(named, tensors, strict=True)))
            return recognize(moved).rsample(None, generator)

        # Each sample gets its own copy of the parameters. Coordinate by coordinate, one pullback is the whole Jacobian.
        copies = tuple(p.detach().expand(self.draws, *p.shape) for p in named.values())
        with torch.no_grad():
            return Draw(*value_and_grad(sample, *copies))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        critic: Any = self.critic if self.quadratic is None else self.quadratic
        evaluate = critic_with_gradient(self.name, critic, len(variables.event_shape), costs.context)
        # A plain function has nothing to learn. It may close over θ, so it is evaluated without gradient.
        learn = self.training and isinstance(critic, nn.Module)
        named = variables.parameters
        names = asked(named)
        derivatives = dict(zip(named, draw.derivatives, strict=True))
        with nullcontext() if learn else torch.no_grad():
            c, by_points = evaluate(draw.points)  # [k, *batch] and [k, *batch, *event], attached to ψ
            checks.finite_critic(self.name, c, by_points)
            excess = costs.shared(costs.fixed - c)
            if isinstance(variables, Normals):
                epsilon, scale = variables.noise_of(draw.points), variables.base.scale.detach()
                along = {"loc": (epsilon, by_points)}
                if "scale" in names:
                    along["scale"] = epsilon.square() - 1, derivatives["scale"] * by_points
                gradients = tuple(
                    sums.over_samples(excess, score) / scale + costs.average(moved)
                    for score, moved in (along[name] for name in names)
                )
            else:
                gradients = tuple(
                    # A parameter may have further dimensions: the components of a mixture.
                    sums.over_samples(excess, score)
                    + costs.average(derivatives[name] * unsqueeze_to(by_points, score.dim()))
                    for name, score in zip(names, variables.scores(draw.points, names), strict=True)
                )
        if not variables.plain:
            checks.scored(self.name, variables, variables.log_prob(draw.points))
        parameters = tuple(named[name] for name in names)
        result = surrogate(self.name, costs.mean(), parameters, tuple(g.detach() for g in gradients))
        if not learn:
            return result
        return train(result, squared_length(gradients, len(variables.batch_shape)))
