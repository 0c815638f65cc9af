"""The unordered set estimator: samples without replacement, averaged over every order in which they could have come.

Source: [kool2020estimating]. Differences from the paper: the probability of a set is a sum over its subsets, with 2^k
positive terms and no cancellation, where the paper sums over the k! orders or integrates numerically.
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
from sampleprop.estimators.exact import states
from sampleprop.families import Enumerable
from sampleprop.surrogate import surrogate

MOST_SAMPLES = 12


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached, all different; the mode in place of impossible states
    log_probs: Tensor  # [k, *batch], detached: log p of the states in the set
    log_rest: Tensor  # [*batch], detached: the log of the probability outside of the set
    probes: None = None


class UnorderedSet(Estimator[Enumerable, Draw]):
    r"""Draws different joint states and weights each by its probability and by how likely it makes the set.

    .. math::

        \nabla_\phi L \approx \sum_{s \in S} p_s R(S, s) \Bigl(f(s)
            - \sum_{s' \in S} p_{s'} R^{\setminus s}(S, s') f(s')\Bigr) \nabla_\phi \log p_\phi(s),
            \qquad R(S, s) = \frac{P^{\setminus s}(S \setminus s)}{P(S)}

    where P(S) is the probability of drawing S in any order without replacement; :math:`P^{\setminus s}` and
    :math:`R^{\setminus s}` are P and R when s cannot be drawn, with :math:`R^{\setminus s}(S, s) = 1`.

    Unbiased. No state is evaluated twice. This helps if few states have most of the probability. Exact where S
    covers every possible state. One sample is the score function without a baseline; from two on the baseline is built
    in. The value is the mean of f(s) with the weights p_s R(S, s), which sum to 1.

    f may be a black box. k evaluations of f, or one for each joint state if they are fewer; the probabilities of all
    joint states are enumerated, f is not.

    Args:
        samples: k, the size of the set, from 1 to 12.
        limit: the largest number of joint states whose probabilities are enumerated, at least 2.

    Raises:
        ValueError: for a number of samples that is not from 1 to 12, and a limit below 2.
        TypeError: for more joint states than the limit.

    Example, for p = (1/2, 1/4, 1/4), S = {0, 1} and f = (1, 5). P(S) = 1/2 · 1/2 + 1/4 · 2/3 = 5/12, so the weights are
    1/2 · 1/2 · 12/5 = 3/5 and 1/4 · 2/3 · 12/5 = 2/5. The baselines are 1/2 · 1 + 1/4 · 2 · 5 = 3 for state 0 and
    1/2 · 3/2 · 1 + 1/4 · 5 = 2 for state 1. The first two entries of the scores are (1/2, -1/4) and (-1/2, 3/4), and
    3/5 · (1 - 3) · (1/2, -1/4) + 2/5 · (5 - 2) · (-1/2, 3/4) = (-1.2, 1.2):

        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([0.5, 0.25, 0.25]).log().requires_grad_()
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> draw = Draw(torch.eye(3)[:2], logits[:2].detach(), logits[2].detach())
        >>> loss = sp.UnorderedSet(2).combine(q, draw, torch.tensor([1.0, 5.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad[:2]
        (tensor(2.6000), tensor([-1.2000,  1.2000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "score function"
    source = cited("kool2020estimating")

    def __init__(self, samples: int = 4, *, limit: int = 4096) -> None:
        super().__init__()
        checks.samples("UnorderedSet", samples)
        if samples > MOST_SAMPLES:
            raise ValueError(
                f"UnorderedSet needs at most {MOST_SAMPLES} samples, because it sums over all subsets of the set; got "
                f"samples={samples}. Use RaoBlackwellized for more evaluations."
            )
        checks.positive("UnorderedSet", "limit", limit, least=2)
        self.samples = samples
        self.limit = limit

    def calls(self, variables: Enumerable) -> tuple[int, int]:
        return min(self.draws, variables.support_size), 0

    def for_budget(self, dist: Distribution, evaluations: int) -> Self | None:
        return super().for_budget(dist, min(evaluations, MOST_SAMPLES))

    def refuses(self, variables: Enumerable) -> str | None:
        return states.refusal(self.name, self.limit, variables)

    def draw(self, variables: Enumerable, generator: Generator | None) -> Draw:
        with torch.no_grad():
            log_joint = variables.support_log_prob()  # [states, *batch]
        # Gumbel-top-k: the largest perturbed log-probabilities are a draw without replacement.
        chosen = (log_joint + noise.gumbel(log_joint.shape, log_joint, generator)).topk(self.calls(variables)[0], 0)[1]
        log_probs = log_joint.gather(0, chosen)  # [k, *batch]
        log_rest = log_joint.scatter(0, chosen, -math.inf).logsumexp(0)
        points = states.shown_to_f(variables, variables.states(chosen), log_probs > -math.inf)
        return Draw(points, log_probs, log_rest)

    def estimate(self, variables: Enumerable, draw: Draw, costs: Costs) -> Tensor:
        weights, in_baseline = _weights(draw.log_probs, draw.log_rest)
        baseline = (in_baseline * costs.fixed).sum(1)  # [k, *batch]
        gradient = variables.gradient_for_logits(draw.points, weights * (costs.fixed - baseline))
        return surrogate(self.name, (weights * costs.points).sum(0), (variables.logits,), (gradient,))


def _weights(log_probs: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights p_s R(S, s), [k, *batch], and of each f(s') in the baseline of s, [k (s), k (s'), *batch]."""
    k = log_probs.shape[0]
    if k == 1:  # R is 1 / p_s, and there is no other state to make a baseline of
        weights = torch.ones_like(log_probs)
        return weights, torch.zeros_like(weights).unsqueeze(0)
    log_set = _log_set_probs(log_probs, log_rest)  # [2^k, *batch]; the bits of the index are the members
    full = 2**k - 1
    members = 2 ** torch.arange(k, device=log_probs.device)
    log_without = log_set[full - members]  # [k, *batch]
    weights = (log_probs + log_without - log_set[full]).exp()
    own = torch.eye(k, dtype=torch.bool, device=log_probs.device)
    pairs = full - members.unsqueeze(1) - members * ~own  # [k, k]: S without s and s', without s on the diagonal
    in_baseline = (log_probs + log_set[pairs] - log_without.unsqueeze(1)).exp()
    return weights, in_baseline


def _log_set_probs(log_probs: Tensor, log_rest: Tensor) -> Tensor:
    """Return the log-probability of drawing each subset of S before anything outside of S: [2^k, *batch].

    That of a subset A follows from those of A without one member, which was the first draw:
    Q(A) = Σ_{s in A} p_s Q(A - s) / (p(A) + p(outside)). All terms are positive, so nothing cancels.
    """
    k = log_probs.shape[0]
    # Where nothing is outside, every subset comes first for certain; S then may hold impossible states, too.
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
