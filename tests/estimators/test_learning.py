"""What learns does not end worse than it began, on every built-in problem, trained as `compare` trains it.

"At most 1.05 times" is judged on 4,096 replicates with the same noise before and after; all is seeded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import sampleprop as sp
from sampleprop.certificates import PROBLEMS
from sampleprop.diagnostics.measuring.replicates import Expectation
from sampleprop.families import Structures, recognize
from sampleprop.lab.measure.problems import BUILT_IN

pytestmark = pytest.mark.slow

STEPS, REPLICATES, MOST = 500, 4096, 1.05
LEARNERS: tuple[Callable[[], sp.Estimator[Any, Any]], ...] = (
    lambda: sp.REBAR(),
    lambda: sp.RELAX(),
    lambda: sp.LAX(),
    lambda: sp.RODEO(),
    lambda: sp.DoubleCV(),
    lambda: sp.MuProp(learn=True),
    lambda: sp.ScoreFunction(1, baseline=sp.LearnedBaseline()),
)


def _expectations() -> dict[str, Expectation]:
    """Those of the certificates, except where nearly all draws are alike or slow, and those of `sampleprop compare`.

    Structures are slow to train on: those of the command stand for all, without the slowest one. The same variables by
    their probabilities have the same draws and costs, which is all that anything learns from.
    """
    found = {}
    for problem in PROBLEMS:
        if not (problem.rare or problem.bound or problem.slow or problem.name.endswith("by probabilities")):
            phi, theta = problem.rows(1)
            dist = problem.dist(phi)
            if not isinstance(recognize(dist), Structures):
                f = partial(problem.f, phi=phi.detach(), theta=theta.detach())
                found[problem.name] = Expectation(f, dist)
    for name in BUILT_IN.keys() - {"subset", "digits", "digits-200"}:  # the last two train an autoencoder first
        of_command = BUILT_IN[name](0)
        found[f"compare, {name}"] = Expectation(of_command.f, of_command.dist, of_command.context)
    return dict(sorted(found.items()))


EXPECTATIONS = _expectations()
CASES = [
    pytest.param(learner, name, id=f"{learner().label}-{name}")
    for learner in LEARNERS
    for name, expectation in EXPECTATIONS.items()
    if learner().refusal(expectation.dist) is None
]


@pytest.mark.parametrize(("learner", "name"), CASES)
def test_after_500_steps_the_variance_is_no_larger(learner: Callable[[], sp.Estimator[Any, Any]], name: str) -> None:
    expectation = EXPECTATIONS[name]

    def variance(estimator: sp.Estimator[Any, Any]) -> float:
        quiet = copy.deepcopy(estimator).eval()
        return float(expectation.estimates(quiet, REPLICATES, expectation.generator(1)).gradients.var(0).sum())

    torch.manual_seed(0)
    estimator = learner()
    before, start = variance(estimator), copy.deepcopy(estimator.state_dict())
    expectation.train(estimator, STEPS, expectation.generator(0))
    assert any(not torch.equal(x, start[key]) for key, x in estimator.state_dict().items())
    assert variance(estimator) <= MOST * before
