"""MuProp's own claims; those that it shares are in test_control_variates.py."""

import math

import pytest
import torch

import sampleprop as sp
from estimators.score.moments import BITS, CLASSES, bits, combined, every_tuple, onehot, wave
from sampleprop.estimators.score import muprop, score_function


def test_muprop_with_coefficient_zero_has_the_cost_at_the_mean_as_baseline():
    rows, _ = every_tuple(muprop.Draw, bits, BITS, 1)
    baseline = sp.Constant(wave(BITS.sigmoid().expand(1, 1, 3)).item())
    mine = combined(sp.MuProp(coefficient=0.0), bits, BITS, rows)[1]
    rows = score_function.Draw(rows.points)
    torch.testing.assert_close(mine, combined(sp.ScoreFunction(1, baseline=baseline), bits, BITS, rows)[1])


def test_muprop_evaluates_the_mean_once_for_all_samples():
    seen = []
    estimator = sp.MuProp(5)
    sp.expect(lambda x: (seen.append(len(x)), x.sum(-1))[1], bits(torch.zeros(4, 3)), estimator)
    assert seen == [5, 1]
    assert estimator.evaluations(bits(torch.zeros(4, 3))) == (6, 1)


def test_a_coefficient_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite coefficient"):
        sp.MuProp(coefficient=math.nan)


def test_a_budget_is_spent_on_samples():
    dist = onehot(CLASSES)
    assert sp.MuProp().for_budget(dist, 5).evaluations(dist)[0] == 5
