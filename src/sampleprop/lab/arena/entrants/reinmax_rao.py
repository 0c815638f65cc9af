"""ReinMax with Gumbel-softmax in the place of softmax, averaged over the Gumbel noise that gives the same sample.

Derivation. ReinMax passes the gradient at a sample D through 2 J((D + π) / 2) - J(π) / 2, where J(h) is the derivative
of softmax at the logits log h. Straight-through passes it through J(π) alone, and straight-through Gumbel-softmax
replaces J(π) by the derivative of softmax((φ + G) / τ), with the noise G that drew D. Gumbel-Rao is its mean over G
given D. The same replacement in both terms of ReinMax gives

    2 R((D + π) / 2) - R(π) / 2,    R(h) = E[∂ softmax((log h + G) / τ) | D = argmax(log h + G)],

estimated by K draws of the noise in each term.

The limit of R itself is ReinMax: as τ → 0, softmax changes only where two noisy logits z_i and z_j tie for the maximum.
Ties have density π_i π_j, half of which belongs to D = i, so that R at D = e_i tends to
Σ_j π_j / 2 (e_i - e_j) (e_i - e_j)ᵀ, which is 2 J((e_i + π) / 2) - J(π) / 2. Gumbel-Rao at a low temperature with all
its noise averaged out is therefore ReinMax at τ = 1: ReinMax has no noise left to average, but by such a replacement.

Source: the idea of ReinMax-Rao, Wang and Bui (2026), “Beyond ReinMax”, arXiv:2603.08257, of which the abstract was
known; derived here anew, so that the paper's estimator may differ.
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from sampleprop.estimators.relaxed.conditional import finite, latent
from sampleprop.estimators.relaxed.gumbel_rao import GumbelRao
from sampleprop.estimators.relaxed.relaxation import soften, through_softmax
from sampleprop.families import Bernoullis, OneHots, recognize, with_parameters


class ReinMaxRao(GumbelRao):
    r"""ReinMax through a Gumbel-softmax that is averaged over the noise given the sample.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \big(2 R(\tfrac12 (x_i + \pi)) - \tfrac12 R(\pi)\big)^\top \nabla_x f(x_i)

    with R the mean over K draws of the noise given x. Biased, also for a linear f. The value and the gradient for θ are
    exact in the mean. f must be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0.
        noises: K, at least 1. They cost no evaluations of f.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.
        allow_steps: let a cost pass that has a step on its path to x; the gradient for φ leaves it out.
    """

    source = None  # type: ignore[assignment]  # not the paper of the class above

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        halfway = (hard + variables.fixed_probs) / 2  # [k, *batch, *event]
        scores = halfway.logit() if isinstance(variables, Bernoullis) else halfway.log()
        first = self._soft(variables, finite(scores), hard, generator)
        second = self._soft(variables, finite(variables.logits.detach()).expand_as(hard), hard, generator)
        softs = (2 / self.noises, first), (-0.5 / self.noises, second)
        return through_softmax(self.name, variables, hard, *softs, temperature=self.temperature)

    def _soft(
        self, variables: Bernoullis | OneHots, scores: Tensor, hard: Tensor, generator: Generator | None
    ) -> Tensor:
        """Softmax over noise given the sample, [K, k, *batch, *event]."""
        there: Any = recognize(with_parameters(variables.dist, {"logits": scores}))
        z = latent(there, hard.expand(self.noises, *hard.shape), generator)
        return soften(variables, z / self.temperature)
