"""The mean and the mean square of an estimate over all groups of draws; nothing is sampled.

A multiset of draws stands for all of its orders where the function treats draws alike.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from sampleprop.diagnostics.auditing.batch import Call, Policy, Reduce, weights

PERMUTATIONS = 4  # that are tried before draws are taken to be treated alike
SAME = 1e-10


class Moments(NamedTuple):
    """Of the estimate, which is a vector of D numbers."""

    mean: Tensor  # [D]
    square: Tensor  # the mean of its squared length

    @property
    def variance(self) -> Tensor:
        """The trace of its covariance."""
        return self.square - self.mean.square().sum()


def moments(call: Call, policy: Policy, group: int, reduce: Reduce) -> Moments:
    """Call the function on each group of `group` draws of each prompt, and add up by their probabilities."""
    draws = len(policy.probs) // policy.prompts
    alike = _alike(call, policy, group, reduce)
    if alike:
        groups = list(itertools.combinations_with_replacement(range(draws), group))
        ways = [math.factorial(group) // math.prod(map(math.factorial, _multiplicities(g))) for g in groups]
    else:
        groups, ways = list(itertools.product(range(draws), repeat=group)), [1] * draws**group
    probs = policy.probs.tolist()
    prompt = torch.arange(policy.prompts).repeat_interleave(group)
    mean = torch.zeros(policy.scores.shape[-1], dtype=torch.float64)
    square = torch.zeros((), dtype=torch.float64)
    for chosen in itertools.product(range(len(groups)), repeat=policy.prompts):
        numbers = [i + p * draws for p, c in enumerate(chosen) for i in groups[c]]
        weight = math.prod(ways[c] for c in chosen) * math.prod(probs[i] for i in numbers)
        index = torch.tensor(numbers)
        estimate = torch.einsum("bt,btd->d", weights(call, policy, index, prompt, reduce), policy.scores[index])
        mean += weight * estimate
        square += weight * estimate.square().sum()
    return Moments(mean, square)


def _alike(call: Call, policy: Policy, group: int, reduce: Reduce) -> bool:
    """Whether the weights move with the draws when those of each prompt change places."""
    generator = torch.Generator().manual_seed(0)
    draws = len(policy.probs) // policy.prompts
    prompt = torch.arange(policy.prompts).repeat_interleave(group)
    for _ in range(PERMUTATIONS):
        index = torch.randint(draws, (len(prompt),), generator=generator) + draws * prompt
        order = torch.cat([torch.randperm(group, generator=generator) + group * p for p in range(policy.prompts)])
        one, other = (weights(call, policy, i, prompt, reduce) for i in (index, index[order]))
        if not torch.allclose(one[order], other, rtol=SAME, atol=SAME):
            return False
    return True


def _multiplicities(group: tuple[int, ...]) -> list[int]:
    return [group.count(draw) for draw in set(group)]
