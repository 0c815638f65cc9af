"""The fastest plain PyTorch that we could write for the same steps: how far any library can come."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import tight
from cases import KINDS
from contenders.problems import Build, Problem, Step

Estimate = Callable[..., Tensor]


def expectation(estimate: Estimate) -> Build:
    def build(problem: Problem, samples: int) -> Step:
        family = KINDS[problem.kind].tight
        return lambda: estimate(family, problem.parameter(), problem.cost, samples).mean().backward()

    return build


STEPS: dict[str, Build] = {
    "score function": expectation(tight.score_function),
    "leave-one-out": expectation(tight.leave_one_out),
    "ARM": expectation(tight.arm),
    "enumeration": expectation(tight.enumerate_all),
    "pathwise": expectation(tight.pathwise),
    "Gumbel-softmax": expectation(tight.gumbel_softmax),
    "straight-through Gumbel": expectation(tight.straight_through_gumbel),
}
