"""The variances of ARM, DisARM and ARMS for one Bernoulli variable, in closed form.

There f(1) - f(0) = d, and every gradient is d times a function of the noise. A measured variance may be off by 2 %,
which is at least 6 of its standard errors (less than 2e-9 for each of 14 comparisons). The seed is fixed.
"""

import math
from collections.abc import Callable

import pytest
import torch

import sampleprop as sp
from estimators.coupled.replicates import bernoullis, gradients
from sampleprop.estimators.coupled.arm import ARM
from sampleprop.estimators.coupled.arms import ARMS
from sampleprop.estimators.coupled.disarm import DisARM


def variance_of_arm(p: float, k: int) -> float:
    # g = d |u - 1/2| where |u - 1/2| > 1/2 - q, for q = min(p, 1 - p), else 0.
    q = min(p, 1 - p)
    second = 2 / 3 * (1 / 8 - (1 / 2 - q) ** 3)
    return (second - (q * (1 - q)) ** 2) / (k / 2)


def variance_of_disarm(p: float, k: int) -> float:
    # The two differ with probability 2 q, and then g = d (1 - q) / 2.
    q = min(p, 1 - p)
    return q * (1 - q) ** 2 * (1 / 2 - q) / (k / 2)


def variance_by_count(p: float, k: int, distribution: list[float], decorrelation: float) -> float:
    # With N ones of k, Σ (f - mean f)(x - p) = d N (k - N) / k.
    values = [n * (k - n) / (k * (k - 1) * decorrelation) for n in range(k + 1)]
    mean = sum(weight * value for weight, value in zip(distribution, values, strict=True))
    assert mean == pytest.approx(p * (1 - p), rel=1e-12)
    return sum(weight * value**2 for weight, value in zip(distribution, values, strict=True)) - mean**2


def variance_of_leave_one_out(p: float, k: int) -> float:
    distribution = [math.comb(k, n) * p**n * (1 - p) ** (k - n) for n in range(k + 1)]
    return variance_by_count(p, k, distribution, 1.0)


def variance_of_arms_dirichlet(p: float, k: int) -> float:
    # Any j of the u are all below q with probability (1 - j (1 - q^(1/(k-1))))^(k-1), the volume of a corner of the
    # simplex. The distribution of the count follows by inclusion and exclusion.
    q = min(p, 1 - p)
    below = [max(0.0, 1 - j * (1 - q ** (1 / (k - 1)))) ** (k - 1) for j in range(k + 1)]
    distribution = [
        math.comb(k, n) * sum((-1) ** (j - n) * math.comb(k - n, j - n) * below[j] for j in range(n, k + 1))
        for n in range(k + 1)
    ]
    return variance_by_count(p, k, distribution, (q - below[2]) / (q * (1 - q)))


def variance_of_arms_systematic(p: float, k: int) -> float:
    q = min(p, 1 - p)
    whole, fraction = int(k * q), k * q - int(k * q)
    distribution = [0.0] * (k + 1)
    distribution[whole], distribution[whole + 1] = 1 - fraction, fraction
    both = (whole * (whole - 1) * (1 - fraction) + (whole + 1) * whole * fraction) / (k * (k - 1))
    return variance_by_count(p, k, distribution, (q - both) / (q * (1 - q)))


@pytest.mark.parametrize("p", [0.2, 0.9])
@pytest.mark.parametrize(
    ("estimator", "variance"),
    [
        (ARM(), variance_of_arm),
        (ARM(4), variance_of_arm),
        (DisARM(), variance_of_disarm),
        (sp.ScoreFunction(2), variance_of_leave_one_out),
        (sp.ScoreFunction(4), variance_of_leave_one_out),
        (ARMS(4, copula="dirichlet"), variance_of_arms_dirichlet),
        (ARMS(4), variance_of_arms_systematic),
    ],
    ids=lambda value: value.label if isinstance(value, sp.Estimator) else "",
)
def test_variance_for_one_variable(estimator: sp.Estimator, variance: Callable[[float, int], float], p: float) -> None:
    d = 1.5
    logits = torch.logit(torch.tensor([p], dtype=torch.float64))
    measured = gradients(estimator, logits, bernoullis, lambda x: 3 + d * x[..., 0], 260_000, seed=1).squeeze(-1)
    centred = (measured - measured.mean()).square()
    expected = d**2 * variance(p, estimator.samples)
    assert centred.std() / centred.shape[0] ** 0.5 < 0.02 / 6 * expected  # the test is as sharp as it says
    assert centred.mean().item() == pytest.approx(expected, rel=0.02)


def test_coupling_helps_most_at_one_half() -> None:
    """There the pair always differs, and for one variable nothing random is left."""
    logits = torch.zeros(1, dtype=torch.float64)
    for estimator in (DisARM(), ARMS(2), ARMS(4)):
        assert gradients(estimator, logits, bernoullis, lambda x: x[..., 0], 100, seed=2).std() < 1e-12
