"""What is peculiar to enumeration."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributions as td

import sampleprop as sp


def test_enumeration_refuses_a_large_support() -> None:
    with pytest.raises(TypeError, match=r"Enumerate needs at most limit=4096 joint states; got 8192\. Raise the limit"):
        sp.expect(lambda x: x.sum(-1), td.Independent(td.Bernoulli(logits=torch.zeros(13)), 1), sp.Enumerate())


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
def test_the_limit_must_be_possible(number: float) -> None:
    with pytest.raises(ValueError, match="Enumerate needs limit at least 2; got"):
        sp.Enumerate(limit=number)  # type: ignore[arg-type]


def test_a_budget_leaves_the_number_of_samples_alone() -> None:
    """It has none that could be chosen: it takes part with what it needs, or not at all."""
    dist = td.Independent(td.Bernoulli(logits=torch.zeros(3)), 1)
    assert sp.Enumerate().for_budget(dist, 7) is None
    configured = sp.Enumerate().for_budget(dist, 20)
    assert configured is not None
    assert configured.samples == sp.Enumerate().samples
    assert configured.evaluations(dist) == (8, 0)
