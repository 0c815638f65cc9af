"""The score function and MeasureValued on counts, by the log-probabilities and samplers of torch."""

import pytest
import torch
from torch import Generator

import sampleprop as sp
from estimators.counts import COUNTS, LAWS, ROWS, Z, certify, largest_z, replicates
from sampleprop import families


@pytest.mark.parametrize("name", COUNTS)
def test_score_function_is_unbiased(name: str) -> None:
    certify(sp.ScoreFunction(4), LAWS[name])


@pytest.mark.parametrize("name", COUNTS)
def test_measure_valued_is_unbiased(name: str) -> None:
    certify(sp.MeasureValued(), LAWS[name])


@pytest.mark.parametrize("name", COUNTS)
def test_sampler_follows_the_law_and_the_generator(name: str) -> None:
    law, before = LAWS[name], torch.get_rng_state()
    one, other = (replicates(sp.ScoreFunction(4), law, rows=50, seed=3) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    different, _ = replicates(sp.ScoreFunction(4), law, rows=50, seed=4)
    assert not torch.equal(one[0], different)
    assert torch.equal(before, torch.get_rng_state())
    dist = law.dist(law.phi)
    points = families.recognize(dist).sample(ROWS, Generator().manual_seed(5))
    assert largest_z(points, dist.mean) < Z
    assert largest_z((points - dist.mean).square(), dist.variance) < Z
