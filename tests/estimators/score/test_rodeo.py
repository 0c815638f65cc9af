"""RODEO's own claims; those that it shares are in test_control_variates.py."""

import pytest

import sampleprop as sp
from estimators.score.moments import CLASSES, onehot


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        sp.RODEO(1)


def test_a_budget_is_spent_on_samples():
    dist = onehot(CLASSES)
    assert sp.RODEO().for_budget(dist, 9).evaluations(dist)[0] == 8
