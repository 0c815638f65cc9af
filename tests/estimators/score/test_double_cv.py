"""DoubleCV's own claims; those that it shares are in test_control_variates.py."""

import pytest
import torch

import sampleprop as sp
from estimators.score.moments import BITS, CLASSES, bits, combined, every_tuple, moments, onehot
from sampleprop.estimators.score import double_cv


def test_the_correction_of_double_cv_is_subtracted():
    def step(x):
        return 2 + (x * torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)).sum(-1).tanh()

    rows, probability = every_tuple(double_cv.Draw, bits, BITS, 2)
    estimator = sp.DoubleCV().double()
    variance = {}
    for coefficient in (-1.0, 0.0, 0.5):
        estimator.coefficient.data.fill_(coefficient)
        variance[coefficient] = moments(combined(estimator, bits, BITS, rows, step)[1], probability)[1]
    assert variance[0.5] < variance[0.0] < 0.5 * variance[-1.0]


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        sp.DoubleCV(1)


def test_a_budget_is_spent_on_samples():
    dist = onehot(CLASSES)
    assert sp.DoubleCV().for_budget(dist, 7).evaluations(dist)[0] == 6
