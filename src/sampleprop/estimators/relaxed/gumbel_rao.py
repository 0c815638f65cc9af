"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over the noise that gives the same sample.

Source: Paulus, Maddison and Krause (2021), "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator",
sec. 3.
Differences from the paper: Bernoulli variables too, with logistic noise.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.conditional import finite, latent
from sampleprop.estimators.relaxed.relaxation import Relaxation, soften, straight_through
from sampleprop.families import Bernoullis, Discrete, OneHots


class GumbelRao(Relaxation[Bernoullis | OneHots]):
    r"""Passes the gradient to the logits through the relaxation, averaged over the noise given the sample.

    .. math::

        \nabla_\phi L \approx \Big(\frac{\partial}{\partial\phi} \frac1K \sum_{j=1}^K
            \sigma\big((\phi + \varepsilon_j) / \tau\big)\Big)^{\!\top} \nabla_x f(x),
        \qquad \varepsilon_j \sim p(\varepsilon \mid x)

    σ is the softmax with Gumbel noise, or the sigmoid with logistic noise; the noise given x has no derivative by φ
    here (in REBAR it has). Averaged over the samples.

    Biased, as straight-through Gumbel-softmax is and by the same amount, with a variance that falls as K grows. f sees
    only true samples, and must be differentiable there. k evaluations of f, and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower in the course of training.
        noises: K, draws of the noise for each sample, at least 1. They cost no evaluations of f.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> values = torch.tensor([1.0, 2.0, 3.0])
        >>> sp.expect(lambda x: (x * values).sum(-1).square(), q, sp.GumbelRao()).backward()
    """

    exact_forward = True
    needs = "differentiable"
    source = cited("paulus2021rao", "sec. 3")

    temperature: Tensor

    def __init__(
        self, samples: int | None = 1, *, temperature: float = 0.5, noises: int = 10, allow_unused: bool = False
    ) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})
        if isinstance(noises, bool) or not isinstance(noises, int) or noises < 1:
            raise ValueError(f"GumbelRao needs a whole number of noises, at least 1; got noises={noises!r}.")
        self.noises = noises

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        points = variables.sample(self.draws, generator)
        z = latent(variables, points.expand(self.noises, *points.shape), generator)  # [K, k, *batch, *event]
        return _through(variables, points, z, self.temperature)


def _through(variables: Discrete, points: Tensor, z: Tensor, temperature: Tensor) -> Tensor:
    """The points, with the derivative of the relaxation averaged over the first dimension of z."""
    logits = finite(variables.logits)
    scores = z + (logits - logits.detach())  # φ + noise, with the noise held fixed
    return straight_through(points, soften(variables, scores / temperature).mean(0))
