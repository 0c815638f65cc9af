"""Copulas: uniform margins, the stated correlation, and the least one for the systematic copula.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with at most 60
comparisons in this file that is a false alarm once in 28,000 seeds. Everything else is exact.
"""

import math

import pytest
import torch

from estimators.coupled.replicates import COPULAS, Z, largest_z
from sampleprop.estimators.coupled import copulas


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 3, 6])
def test_the_copula_has_uniform_margins_and_the_correlation_it_states(copula: copulas.Copula, k: int) -> None:
    rows = 50_000
    q = torch.tensor([0.05, 0.2, 0.35, 0.45], dtype=torch.float64)
    u = copulas.uniforms(copula, (k, rows), q, torch.Generator().manual_seed(5))
    below = (u.unsqueeze(-1) < q).to(torch.float64)  # [k, rows, 4]
    assert largest_z(below.transpose(0, 1), q) < Z
    first_two = (below[0] - q) * (below[1] - q) / (q * (1 - q))
    assert largest_z(first_two, 1 - copulas.decorrelation(copula, k, q)) < Z


@pytest.mark.parametrize("k", [2, 3, 4, 8, 33])
def test_the_systematic_copula_has_the_least_correlation(k: int) -> None:
    q = torch.linspace(1e-6, 0.5, 1000, dtype=torch.float64)
    systematic, dirichlet = (copulas.decorrelation(copula, k, q) for copula in COPULAS)
    assert (systematic >= dirichlet - 1e-12).all()
    assert (dirichlet >= 1 - 1e-12).all()
    assert (systematic <= 1 / (1 - q) + 1e-12).all()


@pytest.mark.parametrize("copula", COPULAS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_correlation_is_exact_in_float32_however_small_the_probability(copula: copulas.Copula, k: int) -> None:
    q = torch.cat([torch.zeros(1), torch.logspace(-38, math.log10(0.5), 500)])
    single, double = (copulas.decorrelation(copula, k, x) for x in (q, q.double()))
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)
    assert single[0] == 1


@pytest.mark.parametrize("k", [2, 5, copulas.FEW, copulas.FEW + 1])
def test_permutations_also_of_equal_numbers(k: int) -> None:
    for u in (torch.rand(k, copulas.MANY), torch.zeros(k, copulas.MANY), torch.rand(k, 3)):
        found = copulas.permutation(u)
        assert torch.equal(found.sort(0).values.long(), torch.arange(k).unsqueeze(-1).expand(u.shape))
