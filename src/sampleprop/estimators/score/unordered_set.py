"""The unordered set estimator: samples without replacement, averaged over every order in which they could have come.

Source: Kool, van Hoof and Welling (2020), "Estimating gradients for discrete random variables by sampling without
replacement".
Differences from the paper: the probability of a set is summed over its subsets, 2^k positive terms and no cancellation,
where the paper sums over the k! orders or integrates numerically.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.score import outcomes
from sampleprop.families import Discrete
from sampleprop.surrogate import surrogate, unsqueeze_to

MOST_SAMPLES = 12


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached, all different; the mode in place of impossible outcomes
    log_probs: Tensor  # [k, *batch], detached: log p of the outcomes in the set
    log_rest: Tensor  # [*batch], detached: the log of the probability outside of the set
    probes: None = None


class UnorderedSet(Estimator[Discrete, Draw]):
    r"""Draws different joint outcomes and weighs each by its probability and by how likely it makes the set.

    .. math::

        \nabla_\phi L \approx \sum_{s \in S} p_s R(S, s) \Bigl(f(s)
            - \sum_{s' \in S} p_{s'} R^{\setminus s}(S, s') f(s')\Bigr) \nabla_\phi \log p_\phi(s),
            \qquad R(S, s) = \frac{P^{\setminus s}(S \setminus s)}{P(S)}

    where P(S) is the probability of drawing S in any order without replacement; :math:`P^{\setminus s}` and
    :math:`R^{\setminus s}` are P and R when s cannot be drawn, with :math:`R^{\setminus s}(S, s) = 1`.

    Unbiased. No evaluation is spent on an outcome twice, which pays where few outcomes carry most of the probability;
    exact where S covers every possible outcome. With one sample it is the score function without a baseline; from two on
    the baseline is built in. The value is the mean of f(s) with the weights p_s R(S, s), which sum to 1. f may be a black
    box. k evaluations of f, or one for each joint outcome if they are fewer; the joint probabilities are enumerated, f is
    not.

    Args:
        samples: k, the size of the set, from 1 to 12.
        limit: the largest number of joint outcomes whose probabilities are enumerated, at least 2.

    Raises:
        ValueError: for a number of samples that is not from 1 to 12, and a limit below 2.
        TypeError: for more joint outcomes than the limit.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([3.0, 1.0, 0.0], requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x[..., 1], q, sp.UnorderedSet(samples=3))
        tensor(0.1142, grad_fn=<_SurrogateBackward>)
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    whole = True
    source = cited("kool2020estimating")

    def __init__(self, samples: int = 4, *, limit: int = 4096) -> None:
        super().__init__()
        checks.samples("UnorderedSet", samples)
        if samples > MOST_SAMPLES:
            raise ValueError(
                f"UnorderedSet needs at most {MOST_SAMPLES} samples, for it sums over the subsets of the set; got samples="
                f"{samples}. Use RaoBlackwellized for more evaluations."
            )
        checks.positive("UnorderedSet", "limit", limit, least=2)
        self.samples = samples
        self.limit = limit

    def calls(self, variables: Discrete) -> tuple[int, int]:
        return min(self.draws, variables.support_size), 0

    def for_budget(self, dist: Distribution, evaluations: int) -> Self | None:
        return super().for_budget(dist, min(evaluations, MOST_SAMPLES))

    def refuses(self, variables: Discrete) -> str | None:
        return outcomes.refusal(self.name, self.limit, variables)

    def draw(self, variables: Discrete, generator: Generator | None) -> Draw:
        with torch.no_grad():
            log_joint = variables.support_log_prob()  # [outcomes, *batch]
        # Gumbel-top-k: the largest perturbed log-probabilities are a draw without replacement.
        chosen = (log_joint + noise.gumbel(log_joint.shape, log_joint, generator)).topk(self.calls(variables)[0], 0)[1]
        log_probs = log_joint.gather(0, chosen)  # [k, *batch]
        log_rest = log_joint.scatter(0, chosen, -math.inf).logsumexp(0)
        points = variables.states(chosen)
        possible = unsqueeze_to(log_probs > -math.inf, points.dim())
        return Draw(torch.where(possible, points, variables.mode()), log_probs, log_rest)

    def estimate(self, variables: Discrete, draw: Draw, costs: Costs) -> Tensor:
        weight, others = _weights(draw.log_probs, draw.log_rest)
        baseline = (others * costs.fixed).sum(1)  # [k, *batch]
        with torch.no_grad():
            gradient = variables.weighted_score(draw.points, weight * (costs.points - baseline))
        return surrogate(self.name, (weight * costs.points).sum(0), (variables.logits,), (gradient,))


def _weights(log_probs: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """The weights p_s R(S, s), [k, *batch], and of each f(s') in the baseline of s, [k (s), k (s'), *batch]."""
    k = log_probs.shape[0]
    log_set = _log_set_probs(log_probs, log_rest)  # [2^k, *batch], the index's bits being the members
    full = 2**k - 1
    members = 2 ** torch.arange(k, device=log_probs.device)
    log_without = log_set[full - members]  # [k, *batch]
    weight = (log_probs + log_without - log_set[full]).exp()
    if k == 1:
        return weight, torch.zeros_like(weight).unsqueeze(0)  # no other outcome to make a baseline of
    own = torch.eye(k, dtype=torch.bool, device=log_probs.device)
    pairs = full - members.unsqueeze(1) - members * ~own  # [k, k]: S without s and s', without s on the diagonal
    others = (log_probs + log_set[pairs] - log_without.unsqueeze(1)).exp()
    return weight, others


def _log_set_probs(log_probs: Tensor, log_rest: Tensor) -> Tensor:
    """The log-probability of drawing each subset of the set before anything outside of the set: [2^k, *batch].

    The subset A's comes from those of its members' absence, each member in turn being the first draw,
    Q(A) = Σ_{s in A} p_s Q(A - s) / (p(A) + p(outside)). All terms are positive, so nothing cancels in the logarithm.
    """
    k = log_probs.shape[0]
    # With nothing outside every subset comes first for certain; impossible outcomes are then in the set, too.
    certain = log_rest == -math.inf
    log_probs = torch.where(certain, 0.0, log_probs)
    log_mass = log_rest.unsqueeze(0)
    for s in range(k):
        log_mass = torch.cat((log_mass, torch.logaddexp(log_mass, log_probs[s])))  # [2^(s + 1), *batch]
    result = torch.zeros_like(log_mass)
    for size in range(1, k + 1):
        members = torch.tensor(list(itertools.combinations(range(k), size)), device=log_probs.device)  # [subsets, size]
        index = (2**members).sum(1)
        smaller = index.unsqueeze(1) - 2**members  # [subsets, size]: without each of its members
        term = (log_probs[members] + result[smaller]).logsumexp(1) - log_mass[index]
        result = result.index_copy(0, index, term)
    return torch.where(certain, 0.0, result)
