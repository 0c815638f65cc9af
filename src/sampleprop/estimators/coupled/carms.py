"""CARMS by stick-breaking: any number of coupled one-hot samples, in every stick negatively correlated.

Source: Dimitriev and Zhou (2021), "CARMS: Categorical-antithetic-REINFORCE multi-sample gradient estimator", for the
estimator; Dong, Mnih and Tucker (2021), "Coupled gradient estimators for discrete latent variables", for the sticks.
Differences from the papers: CARMS couples by inverse transforms over randomly permuted classes, whose joint probability
is a sum over permutations; here the samples are coupled stick by stick, which has a closed form, linear in the number of
classes. The stick-breaking coupling is defined for pairs (DisARM-IW); here it takes any number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import comparable, copulas
from sampleprop.families import OneHots
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *variables, classes], detached
    order: Tensor  # [*batch, *variables, classes], the classes in the order in which sticks were broken off
    probes: None = None


class CARMS(Estimator[OneHots, Draw]):
    r"""Compares f over one-hot samples that avoid each other, each pair weighted by how likely it was.

    .. math::

        \nabla_{\phi_v} L \approx \frac{1}{k (k - 1)} \sum_{i < j} r_v(x_i, x_j)\, (f(x_i) - f(x_j)) (x_{iv} - x_{jv}), \qquad
            r_v(x, x') = \frac{p(x_v)\, p(x'_v)}{P(x_v, x'_v)}

    with φ the logits and P the joint probability of two samples of one variable.

    Unbiased, because P is positive for every two different classes of positive probability; a coupling without that
    (antithetic inverse transforms in a fixed order, or the sticks below in descending order) is silently biased. f may be
    a black box. k evaluations of f. With two classes it is :class:`ARMS`. What is gained over leave-one-out shrinks as the
    classes and the variables become more.

    The coupling: the classes are sorted by ascending probability, and class c is the first whose stick, of probability
    :math:`\beta_c = p_c / \sum_{c' \ge c} p_{c'}`, comes up. For each stick the k samples follow the copula. Ascending
    order keeps β at most one over the number of classes left, so every weight r is less than 2.

    Args:
        samples: k, at least 2.
        copula: the joint law of the samples in each stick, "systematic" or "dirichlet", as for :class:`ARMS`.

    Raises:
        ValueError: for fewer than two samples, and for another copula.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(5, 3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.OneHotCategorical(logits=logits), 1)
        >>> sp.expect(lambda x: x[..., 0].sum(-1).square(), q, sp.CARMS(samples=4)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = cited("dimitriev2021carms")

    def __init__(self, samples: int = 4, *, copula: copulas.Copula = "systematic") -> None:
        super().__init__()
        checks.samples("CARMS", samples, least=2)
        copulas.known("CARMS", copula)
        self.samples = samples
        self.copula = copula

    @property
    def samples_least(self) -> int:
        return 2

    def draw(self, variables: OneHots, generator: Generator | None) -> Draw:
        logits = variables.logits.detach()
        order = _order(logits)
        beta = _sticks(logits, order)
        on = copulas.uniforms(self.copula, (self.draws, *beta.shape), beta, generator) < beta
        # [samples, *batch, *variables, 1]: the first stick to come up, the last one if no other does
        first = nnf.pad(on.to(torch.uint8), (0, 1), value=1).argmax(-1, keepdim=True)
        return Draw((order.argsort(-1) == first).to(variables.dtype), order)

    def estimate(self, variables: OneHots, draw: Draw, costs: Costs) -> Tensor:
        logits = variables.logits
        value = costs.mean()
        centred = costs.fixed - value.detach()  # changes no difference, and keeps the digits of a large common cost
        chosen = variables.one_hot(draw.points)
        if costs.keep is not None:
            comparable.require(self.name, costs.keep.sum(0) > 1, "two finite costs.points")
            chosen = chosen * unsqueeze_to(costs.keep, chosen.dim())
        # [*batch, *variables, classes] in the order of the sticks: how many samples are in each class, and their costs' sum
        number = chosen.sum(0).gather(-1, draw.order)
        total = (unsqueeze_to(centred, chosen.dim()) * chosen).sum(0).gather(-1, draw.order)
        weight = _weights(self.copula, draw.points.shape[0], _sticks(logits.detach(), draw.order))
        # r depends on the earlier class alone. So a class meets all later ones with its own weight, and each earlier one with
        # that one's; of both, the sum of f(x_i) - f(x_j) over the pairs is total · number' - number · total'.
        later = weight * (total * _after(number) - number * _after(total))
        earlier = total * _before(weight * number) - number * _before(weight * total)
        kept = number.sum(-1, keepdim=True)  # [*batch, *variables, 1]
        gradient = (later + earlier) / (kept * (kept - 1))
        gradient = torch.zeros_like(gradient).scatter(-1, draw.order, gradient)
        return surrogate(self.name, value, (logits,), (gradient,))


def _order(logits: Tensor) -> Tensor:
    """The classes by ascending probability: every β but the last is at most 1/2, and two samples can pass a stick together."""
    return logits.argsort(-1)


def _sticks(logits: Tensor, order: Tensor) -> Tensor:
    """β, the probability of each class given none before it: [..., classes - 1], since the last class takes what is left."""
    ordered = logits.gather(-1, order)
    left = ordered.flip(-1).logcumsumexp(-1).flip(-1)
    return (ordered - left).exp()[..., :-1]


def _weights(copula: copulas.Copula, k: int, beta: Tensor) -> Tensor:
    """r by the class that comes first, [..., classes]; zero for the last class, which never does.

    Two samples part at a stick with probability β (1 - β) (1 - ρ), and both pass it with (1 - β) (1 - (1 - ρ) β); without
    coupling with β (1 - β) and (1 - β)². What the longer one does after the shorter has stopped is in p and in P alike.
    """
    decorrelation = copulas.decorrelation(copula, k, beta)
    passing = (1 - beta) / (1 - decorrelation * beta)
    before = nnf.pad(passing, (1, 0), value=1.0).cumprod(-1)[..., :-1]
    return nnf.pad(before / decorrelation, (0, 1))


def _before(x: Tensor) -> Tensor:
    """Sums over the earlier classes."""
    return x.cumsum(-1) - x


def _after(x: Tensor) -> Tensor:
    """Sums over the later classes."""
    return x.sum(-1, keepdim=True) - x.cumsum(-1)
