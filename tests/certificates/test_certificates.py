"""Every variant of the register on every exact problem that it takes, and tests of these tests.

False alarms: 1e-3 for this file. `pairs.THRESHOLD` spends half of it over all comparisons that `certified` makes in any
test, each of the other random tests here spends RANDOM_TEST.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any
from zlib import crc32

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

import sampleprop as sp
from certificates.pairs import PAIRS, THRESHOLD, certified
from sampleprop.certificates import PROBLEMS, Certificate, Problem
from sampleprop.certificates.trial import Trial, threshold
from variants import VARIANTS

RANDOM_TEST = 5e-5

UNBIASED = [pair for pair in PAIRS if pair[0].unbiased]
VALUE_ONLY = [
    (variant, problem)
    for variant, problem in PAIRS
    if variant.exact_forward and not variant.unbiased and not problem.rare
]
BIASED = [variant for variant in VARIANTS if not variant.unbiased]
FIRST = {variant: next(problem for owner, problem in PAIRS if owner is variant) for variant, _ in PAIRS}


_of_variant = cache(certified)  # of biased variants, which two tests look at


def _name(value: Any) -> str:
    return value.label if isinstance(value, sp.Estimator) else str(value)


@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_has_a_problem(variant: sp.Estimator[Any, Any]) -> None:
    assert variant in FIRST, f"no exact problem for {variant}: add one to sampleprop/certificates/problems.py"


@pytest.mark.parametrize(("variant", "problem"), UNBIASED, ids=_name)
def test_unbiased(variant: sp.Estimator[Any, Any], problem: Problem, record_property: Any) -> None:
    certificate = certified(variant, problem)
    record_property("certificate", f"{variant} on {problem}")
    record_property("sees", certificate.sees)
    record_property("largest |z|", max(certificate.z.values()))
    assert max(certificate.z.values()) < THRESHOLD, str(certificate)
    assert _shortened(certificate) > THRESHOLD, f"0.97 * gradient would pass: {certificate}"


def _shortened(certificate: Certificate) -> float:
    """|z| of the projection, had every estimate been multiplied by 0.97."""
    return abs((0.97 * certificate.bias - 0.03) / (0.97 * certificate.bias_error))


@pytest.mark.parametrize(("variant", "problem"), VALUE_ONLY, ids=_name)
def test_value_and_theta_of_biased(variant: sp.Estimator[Any, Any], problem: Problem) -> None:
    certificate = _of_variant(variant, problem)
    assert max(certificate.z["value"], certificate.z["θ"]) < THRESHOLD, str(certificate)


@pytest.mark.parametrize("variant", BIASED, ids=_name)
def test_biased_is_caught(variant: sp.Estimator[Any, Any]) -> None:
    certificates = (_of_variant(variant, problem) for owner, problem in PAIRS if owner is variant)
    assert any(certificate.z["along"] > 2 * THRESHOLD for certificate in certificates)


VARIED = [
    (variant, problem)
    for variant, problem in UNBIASED
    if problem.name in ("six coupled bits", "five classes", "normal, bump")
]
LEARNING = [(variant, problem) for variant, problem in VARIED if variant.learns]


@pytest.mark.parametrize(("variant", "problem"), LEARNING, ids=_name)
def test_control_variate_ten_times_too_big(variant: sp.Estimator[Any, Any], problem: Problem) -> None:
    """A control variate that leaks 2 % of its size leaks 20 % when it is ten times as big."""
    excessive = copy.deepcopy(variant)
    with torch.no_grad():
        for name, parameter in excessive.named_parameters():
            if "temperature" not in name:  # the shape of the control variate, not its size
                parameter.copy_(torch.where(parameter == 0, 1 / parameter.numel(), 10 * parameter))
    certificate = certified(excessive, problem, detectable=0.2)
    assert max(certificate.z["φ"], certificate.z["along"]) < THRESHOLD, str(certificate)


def _gradients(variant: sp.Estimator[Any, Any], problem: Problem, scale: float, shift: float) -> Tensor:
    """[replicates, coordinates] of the gradient for scale * f + shift, with the same noise at each call."""
    replicates = 20_011
    generator = Generator().manual_seed(crc32(variant.label.encode()))
    phi, theta = problem.rows(replicates)
    value = sp.expect(
        lambda x: scale * problem.f(x, phi, theta) + shift, problem.dist(phi), variant, generator=generator
    )
    (gradient,) = torch.autograd.grad(value.sum(), phi)
    return gradient.reshape(replicates, -1)


def _largest_z(differences: Tensor) -> float:
    errors = differences.std(0) / math.sqrt(differences.shape[0])
    return (differences.mean(0).abs() / (errors + 1e-9)).max().item()


PAIRED = threshold(sum(2 * FIRST[variant].phi.numel() for variant in FIRST), RANDOM_TEST)


@pytest.mark.parametrize("variant", [v for v in FIRST if v.unbiased and v.objective == "mean"], ids=_name)
def test_twice_the_cost_twice_the_gradient(variant: sp.Estimator[Any, Any]) -> None:
    problem = FIRST[variant]
    once, twice = _gradients(variant, problem, 1.0, 0.0), _gradients(variant, problem, 2.0, 0.0)
    assert _largest_z(twice - 2 * once) < PAIRED


@pytest.mark.parametrize("variant", list(FIRST), ids=_name)
def test_a_constant_cost_changes_nothing(variant: sp.Estimator[Any, Any]) -> None:
    problem = FIRST[variant]
    plain, shifted = _gradients(variant, problem, 1.0, 0.0), _gradients(variant, problem, 1.0, 3.0)
    assert _largest_z(shifted - plain) < PAIRED


def test_p_values_are_uniform() -> None:
    """Where nothing is wrong, |z| must be as large as chance makes it: neither weights nor controls may distort it."""
    numbers = []
    for estimator in (sp.ScoreFunction(1), sp.ScoreFunction(3)):
        for problem in filter(lambda problem: problem.supports(estimator), PROBLEMS):
            for seed in range(4):
                trial = Trial(estimator, problem, seed)
                trial.pilot(4_000)
                mean, variance, count = trial.run(50_000 if problem.rare else 8_000)
                z = mean / (variance / count).sqrt()
                numbers.append(z[trial.along].item())
    p_values = 2 * stats.norm.sf([abs(z) for z in numbers])
    assert stats.kstest(p_values, "uniform").pvalue > RANDOM_TEST / 2
    assert stats.kstest(numbers, "norm").pvalue > RANDOM_TEST / 2


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_nodes_carry_all_probability(problem: Problem) -> None:
    dist = (problem.law or problem.dist)(problem.phi)
    points, weights = problem.nodes(dist)
    mass = (weights.reshape(len(weights), -1) * dist.log_prob(points).exp()).sum(0)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-12)


def test_quadrature_of_the_normal_is_its_closed_form() -> None:
    def square(mean: Tensor, variance: Tensor) -> Tensor:
        return mean.square() + variance

    def bump(mean: Tensor, variance: Tensor) -> Tensor:
        return (-mean.square() / (1 + 2 * variance)).exp() / (1 + 2 * variance).sqrt()

    def cosine(mean: Tensor, variance: Tensor) -> Tensor:
        return mean.cos() * (-variance / 2).exp()

    by_name = {problem.name: problem for problem in PROBLEMS}
    for name, form in (("normal, square", square), ("normal, bump", bump), ("normal, cosine", cosine)):
        problem = by_name[name]
        phi, theta = problem.rows(1)
        exact = problem.exact(sp.ScoreFunction(), phi, theta)
        closed = theta[0, 0] + theta[0, 1] * form(phi[:, 0], (2 * phi[:, 1]).exp())
        torch.testing.assert_close(exact, closed, rtol=1e-12, atol=0)
        gradients = [torch.autograd.grad(value.sum(), phi)[0] for value in (exact, closed)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
