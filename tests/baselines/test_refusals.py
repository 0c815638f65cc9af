"""What the baselines refuse, by the wording."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import sampleprop as sp
from kinds import BITS

BATCH = 5


def test_constant_baseline_must_be_finite() -> None:
    with pytest.raises(ValueError, match="Constant needs a finite number; got nan"):
        sp.Constant(math.nan)


def test_known_mean_refuses_other_shapes() -> None:
    dist = BITS.dist(BITS.phi(BATCH))

    def run(b: Any, expectation: Any) -> None:
        sp.expect(lambda x: x.sum(-1), dist, sp.ScoreFunction(1, baseline=sp.KnownMean(b, expectation)))

    with pytest.raises(
        ValueError, match=r"KnownMean needs b\(points\) of shape \[k, \*batch\] = \[1, 5\]; got \[1, 5, 3\]"
    ):
        run(lambda x: x, lambda dist: dist.mean.sum(-1))
    with pytest.raises(ValueError, match=r"KnownMean needs an expectation of shape \[\*batch\] = \[5\]; got \[5, 3\]"):
        run(lambda x: x.sum(-1), lambda dist: dist.mean)


def test_learned_baseline_refuses_a_missing_context_and_other_shapes() -> None:
    dist = BITS.dist(BITS.phi(BATCH))
    estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline(nn.Linear(2, 1)))
    with pytest.raises(ValueError, match=r"LearnedBaseline needs the context .* Pass context="):
        sp.expect(lambda x: x.sum(-1), dist, estimator)
    with pytest.raises(
        ValueError, match=r"LearnedBaseline needs one prediction .* shape \[5\]; the network returned \[5, 1\]"
    ):
        sp.expect(lambda x: x.sum(-1), dist, estimator, context=torch.zeros(BATCH, 2))
