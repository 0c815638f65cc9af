"""CARMS by stick-breaking: any number of one-hot samples, negatively correlated in every stick.

Source: [dimitriev2021carms] for the estimator, [dong2021coupled] for the sticks. Differences from the papers: CARMS
couples by inverse transforms over permuted classes, whose joint probability is a sum over permutations. Sticks have a
closed form, linear in the number of classes. Their paper (DisARM-IW) couples pairs; here it is any number of samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Generator, Tensor

from sampleprop import checks, noise, sums
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import copulas
from sampleprop.families import OneHots, one_hot
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *variables, classes], detached
    order: Tensor  # [*batch, *variables, classes], the classes in the order in which sticks were broken off
    probes: None = None


class CARMS(Estimator[OneHots, Draw]):
    r"""Compares f over negatively correlated one-hot samples, where each pair is weighted by how likely it was.

    .. math::

        \nabla_{\phi_v} L \approx \frac{1}{k (k - 1)} \sum_{i < j} r_v(x_i, x_j)\, (f(x_i) - f(x_j)) (x_{iv} - x_{jv})

    Here φ are the logits, r_v(x, x') is p(x_v) p(x'_v) / P(x_v, x'_v), and P is the joint probability of two samples of
    one variable. The classes are sorted by ascending probability, and a sample is the first class whose stick comes up,
    with probability :math:`\beta_c = p_c / \sum_{c' \ge c} p_{c'}`. For each stick the k samples follow the copula.

    Unbiased, because P is positive for every two different classes of positive probability. A coupling without this
    property is biased, without an error. Examples are antithetic inverse transforms in a fixed order, and sticks in
    descending order. In ascending order β is at most one over the number of classes left, so every weight r is less
    than 2. f may be a black box. k evaluations of f. With two classes it is :class:`ARMS`. The gain over leave-one-out
    shrinks as the numbers of classes and of variables grow.

    Args:
        samples: k, at least 2.
        copula: the joint distribution of the samples in each stick, "systematic" or "dirichlet", as for :class:`ARMS`.

    Raises:
        ValueError: for fewer than two samples, and for another copula.

    Example, for p = (3, 2, 1)/6, with sticks 1/6 and 2/5 in the order (2, 1, 0). Samples of the classes 1 and 0 both
    pass the first stick with probability 1 - 2/6, and part at the second with 2/5. So P = 4/15 and r = (1/6) / P = 5/8;
    f = (4, 1) gives 1/2 · 5/8 · 3 for class 1, and the negative of it for class 0:

        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([3.0, 2.0, 1.0]).log().requires_grad_()
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> draw = Draw(torch.eye(3)[[1, 0]], torch.tensor([2, 1, 0]))
        >>> loss = sp.CARMS(2).combine(q, draw, torch.tensor([4.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(2.5000), tensor([-0.9375,  0.9375,  0.0000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    samples_least = 2
    source = cited("dimitriev2021carms")

    def __init__(self, samples: int = 4, *, copula: copulas.Copula = "systematic") -> None:
        super().__init__()
        checks.samples("CARMS", samples, least=2)
        copulas.known("CARMS", copula)
        self.samples = samples
        self.copula = copula

    def draw(self, variables: OneHots, generator: Generator | None) -> Draw:
        logits = variables.logits.detach()
        order = _order(logits)
        beta = _sticks(logits, order)
        u = copulas.uniforms(self.copula, (self.draws, *beta.shape), beta, generator)
        up = noise.above(beta, u, beta.dtype)  # 1 for a stick that does: [samples, *batch, *variables, classes - 1]
        # The first stick to come up, or the last class if none does.
        first = (1 - up).cumprod(-1).sum(-1, keepdim=True).long()
        chosen = order.expand(self.draws, *order.shape).gather(-1, first).squeeze(-1)  # [samples, *batch, *variables]
        return Draw(one_hot(chosen, order.shape[-1], variables.dtype), order)

    def estimate(self, variables: OneHots, draw: Draw, costs: Costs) -> Tensor:
        value, samples = costs.mean(), draw.points.shape[0]
        # Less their mean, which changes no difference and keeps the digits of a large common cost.
        centered = (costs.fixed - value.detach()) / (samples * (samples - 1))
        chosen = variables.one_hot(draw.points)
        # In the order of the sticks: the number of samples in each class, and the sum of their costs.
        number = chosen.sum(0).gather(-1, draw.order)  # [*batch, *variables, classes]
        total = sums.over_samples(centered, chosen).gather(-1, draw.order)
        weight = _weights(self.copula, samples, _sticks(variables.logits.detach(), draw.order))
        # For two classes, the sum of f(x_i) - f(x_j) over the pairs is total · number' - number · total', with the
        # weight of the earlier class. A class with itself gives zero.
        weighted_number, weighted_total = weight * number, weight * total
        gradient = total * weighted_number.cumsum(-1) - number * weighted_total.cumsum(-1)
        gradient = gradient + weighted_total * _later(number) - weighted_number * _later(total)
        gradient = torch.zeros_like(gradient).scatter(-1, draw.order, gradient)
        return surrogate(self.name, value, (variables.logits,), (gradient,))


def _order(logits: Tensor) -> Tensor:
    """The classes by ascending probability: each stick has β ≤ 1/2, so two samples can pass it together."""
    return logits.argsort(-1)


def _sticks(logits: Tensor, order: Tensor) -> Tensor:
    """β, [..., classes - 1]: the probability of each class given none before it. The last class takes what is left."""
    ordered = logits.gather(-1, order).exp()
    return (ordered / ordered.flip(-1).cumsum(-1).flip(-1))[..., :-1]  # what is left holds the largest one


def _weights(copula: copulas.Copula, k: int, beta: Tensor) -> Tensor:
    """r by the class that comes first, [..., classes]; zero for the last class, which never does.

    One sample stops at a stick and the other does not with probability β (1 - β) (1 - ρ); both pass it with
    (1 - β) (1 - (1 - ρ) β). Without coupling these are β (1 - β) and (1 - β)². After the first sample stops, the second
    one's factors cancel in p(x) p(x') / P(x, x').
    """
    decorrelation = copulas.decorrelation(copula, k, beta)
    passing = (1 - beta) / (1 - decorrelation * beta)
    before = nnf.pad(passing, (1, 0), value=1.0).cumprod(-1)[..., :-1]
    return nnf.pad(before / decorrelation, (0, 1))


def _later(x: Tensor) -> Tensor:
    """For each class the sum over those after it."""
    upto = x.cumsum(-1)
    return upto[..., -1:] - upto
