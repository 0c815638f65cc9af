"""Tests of the tests: each well-known mistake, put into an estimator on purpose, must be rejected by its
certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import sampleprop as sp
from certificates.pairs import THRESHOLD, certified
from sampleprop import families, noise
from sampleprop.baselines.baseline import Baseline
from sampleprop.certificates import PROBLEMS
from sampleprop.costs import Costs
from sampleprop.distributions import k_subset, linear_chain, plackett_luce
from sampleprop.estimators.coupled import antithetic, copulas
from sampleprop.estimators.relaxed import conditional
from sampleprop.families import Variables
from sampleprop.surrogate import surrogate
from variants import tilted

BY_NAME = {problem.name: problem for problem in PROBLEMS}
BITS, CLASSES, SUBSETS = "six coupled bits", "five classes", "three of six items"


def rejected(estimator: sp.Estimator[Any, Any], problem: str, parts: tuple[str, ...] = ("φ", "along")) -> bool:
    """Whether the certificate fails in one of the parts."""
    certificate = certified(estimator, BY_NAME[problem])
    return max(certificate.z[part] for part in parts) > THRESHOLD


class OwnSample(Baseline):
    """The mean of all costs, the sample's own among them: the gradient shrinks by (k - 1) / k."""

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return costs.points.mean(0).expand_as(costs.points)


class OwnSampleOverFewer(Baseline):
    """The sum of all costs over k - 1: the own cost was not taken out."""

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return (costs.points.sum(0) / (costs.points.shape[0] - 1)).expand_as(costs.points)


class UpdatedBeforeUse(Baseline):
    """An exponential moving average, of decay 0.9, that has the current cost in it."""

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return 0.9 * 1.5 + 0.1 * costs.points


class CoefficientOfTheSameSamples(Baseline):
    """The optimal coefficient with the sample's own cost and score in it."""

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        (score,) = variables.scores(points)
        weight = score.square().flatten(costs.points.dim()).sum(-1)
        return ((weight * costs.points).sum(0) / weight.sum(0)).expand_as(costs.points)


class MeanNotAdded(sp.KnownMean):
    """A control variate whose mean has a gradient, which is forgotten."""

    def mean(self, variables: Variables) -> None:
        return None


class MeanOfTheOtherSign(sp.KnownMean):
    def mean(self, variables: Variables) -> Tensor | None:
        mean = super().mean(variables)
        return None if mean is None else -mean


class MeanAddedAsValue(sp.ScoreFunction):
    """E[b] is added to the value, as the formula in some texts has it, besides its gradient."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        result = super().estimate(variables, draw, costs)
        return result + self.baseline.mean(variables).detach()  # type: ignore[union-attr, operator]


def _known(kind: type[sp.KnownMean] = sp.KnownMean) -> sp.KnownMean:
    return kind(_first, _first_mean)


def _first(points: Tensor) -> Tensor:
    return 2 * points[..., 0]


def _first_mean(dist: Distribution) -> Tensor:
    return 2 * families.recognize(dist).mean[..., 0]


@pytest.mark.parametrize("problem", [BITS, CLASSES, SUBSETS])
@pytest.mark.parametrize(
    "mutant",
    [
        sp.ScoreFunction(4, baseline=OwnSample()),
        sp.ScoreFunction(4, baseline=OwnSampleOverFewer()),
        sp.ScoreFunction(1, baseline=UpdatedBeforeUse()),
        sp.ScoreFunction(4, baseline=CoefficientOfTheSameSamples()),
        sp.ScoreFunction(1, baseline=_known(MeanNotAdded)),
        sp.ScoreFunction(1, baseline=_known(MeanOfTheOtherSign)),
    ],
    ids=str,
)
def test_wrong_baseline(mutant: sp.Estimator[Any, Any], problem: str) -> None:
    assert rejected(mutant, problem)


@pytest.mark.parametrize("problem", [BITS, CLASSES])
def test_mean_added_as_value(problem: str) -> None:
    assert rejected(MeanAddedAsValue(1, baseline=_known()), problem, ("value",))


class FlippedSign(sp.ScoreFunction):
    """Minus the score term, which a loss to be maximized would want."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        log_prob = variables.log_prob(draw.points)
        return costs.average(costs.points - costs.fixed * (log_prob - log_prob.detach()))


class MeanOverTheEvent(sp.ScoreFunction):
    """log p averaged over the event dimension instead of summed."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        log_prob = variables.log_prob(draw.points) / variables.event_shape.numel()
        return costs.average(costs.points + costs.fixed * (log_prob - log_prob.detach()))


class SamplesSummed(sp.ScoreFunction):
    """The sum over the samples in the place of their mean."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        result = super().estimate(variables, draw, costs)
        return result + (self.draws - 1) * (result - result.detach())


@pytest.mark.parametrize("problem", [BITS, CLASSES])
@pytest.mark.parametrize("mutant", [FlippedSign(), MeanOverTheEvent(), SamplesSummed()], ids=str)
def test_wrong_score_term(mutant: sp.Estimator[Any, Any], problem: str) -> None:
    assert rejected(mutant, problem)


class MissingDetach(sp.ScoreFunction):
    """f log p with f attached: θ gets ∇_θ f log p besides ∇_θ f."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        weighted = costs.points * variables.log_prob(draw.points)
        return costs.average(costs.points + weighted - weighted.detach())


class LeakingControlVariate(sp.ScoreFunction):
    """f at the most probable point serves as a control variate that θ sees."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        with torch.enable_grad():
            greedy = costs.f(variables.mode().unsqueeze(0)).squeeze(0)
        return super().estimate(variables, draw, costs) + greedy - greedy.detach()


@pytest.mark.parametrize("problem", [BITS, CLASSES])
@pytest.mark.parametrize("mutant", [MissingDetach(), LeakingControlVariate()], ids=str)
def test_wrong_gradient_for_theta(mutant: sp.Estimator[Any, Any], problem: str) -> None:
    assert rejected(mutant, problem, ("θ",))


class DependenceDropped(sp.ScoreFunction):
    """∂f/∂φ at a fixed x is forgotten."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        return super().estimate(variables, draw, costs.detach())


def test_dropped_dependence_of_f() -> None:
    assert rejected(DependenceDropped(), "f of φ")


def _no_correlation(copula: str, k: int, q: Tensor) -> Tensor:
    return torch.ones_like(q)


def test_antithetic_sign_of_the_other_point(monkeypatch: pytest.MonkeyPatch) -> None:
    right = antithetic.differences

    def differences(x: Tensor) -> Tensor:
        """Of costs the one way, of points the other."""
        return right(x) if x.dim() > 2 else -right(x)

    monkeypatch.setattr(antithetic, "differences", differences)
    assert rejected(sp.DisARM(), BITS)


def test_independent_pair_taken_for_antithetic(monkeypatch: pytest.MonkeyPatch) -> None:
    def independent(variables: families.Discrete, samples: int, generator: Any) -> tuple[Tensor, Tensor]:
        points = variables.sample(samples, generator)
        return points, points[: samples // 2]

    monkeypatch.setattr(antithetic, "pairs", independent)
    assert rejected(sp.DisARM(), BITS)


def test_correlation_not_divided_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copulas, "decorrelation", _no_correlation)
    assert rejected(sp.ARMS(), BITS)


def _unconditional(variables: families.Discrete, points: Tensor, generator: Any) -> Tensor:
    """Fresh noise that knows nothing of x."""
    like = variables.logits.detach()
    if isinstance(variables, families.OneHots):
        return like + noise.gumbel(points.shape, like, generator)
    return like + noise.logistic(points.shape, like, generator)


def _right_side_only(variables: families.Discrete, points: Tensor, generator: Any) -> Tensor:
    """Noise that agrees with x, but not with its law: |z| for a bit, and another maximum for a one-hot."""
    z = _unconditional(variables, points, generator)
    if isinstance(variables, families.OneHots):
        return torch.where(points > 0, z.amax(-1, keepdim=True) + 0.1, z)
    return (2 * points - 1) * z.abs()


def _no_path(variables: families.Discrete, points: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """z̃ detached from φ: the derivative given x is 0, so conditioning takes all of y."""
    return y


def _free_path(variables: families.Discrete, points: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """z in the place of z̃: its derivative is that of the free noise, so conditioning takes nothing."""
    return torch.zeros_like(y)


@pytest.mark.parametrize("problem", [BITS, CLASSES])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(
    ("target", "mutation"), [("_difference", _no_path), ("_difference", _free_path)], ids=["z̃ detached", "z for z̃"]
)
def test_wrong_derivative_of_conditional_noise(
    target: str, mutation: Callable[..., Tensor], coupled: bool, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, target, mutation)
    assert rejected(sp.REBAR(coupled=coupled), problem)


@pytest.mark.parametrize("problem", [BITS, CLASSES])
@pytest.mark.parametrize("mutation", [_unconditional, _right_side_only], ids=["unconditional", "right side only"])
def test_wrong_law_of_conditional_noise(
    mutation: Callable[..., Tensor], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, "latent", mutation)
    assert rejected(sp.REBAR(), problem)


def _largest_perturbed(self: sp.KSubset, shape: torch.Size, generator: Any = None) -> Tensor:
    """Gumbel-top-k, which draws sets of another distribution."""
    return sp.gumbel_top_k(self.logits.detach().expand(*shape, *self.logits.shape), self.k, generator=generator).sum(-2)


def test_perturbed_logits_as_the_sampler_of_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp.KSubset, "draw", _largest_perturbed)
    assert rejected(sp.ScoreFunction(4), SUBSETS)


def _constant_attached(self: sp.KSubset, *, logits: Tensor) -> Tensor:
    """The constant of the tilt depends on the logits, and the term - k c, which takes it out again, is forgotten."""
    c, s = k_subset._tilt(logits, self.k)
    p = (logits.detach() + c).sigmoid()
    c = c + (self.k - (logits + c).sigmoid().sum(-1, keepdim=True)) / (p * (1 - p)).sum(-1, keepdim=True)
    return k_subset._log_coefficient(logits, self.k, c, s) + s.sum(-1)


def _sum_forgotten(self: sp.KSubset, *, logits: Tensor) -> Tensor:
    """The probabilities of the tilted bits depend on the logits, and the sum of the log(1 + e^θ) is forgotten."""
    c, _ = k_subset._tilt(logits, self.k)
    s = torch.nn.functional.softplus(logits + c)
    return k_subset._log_coefficient(logits, self.k, c, s) - self.k * c.squeeze(-1)


@pytest.mark.parametrize("mutation", [_constant_attached, _sum_forgotten])
def test_wrong_normalizer_of_subsets(mutation: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp.KSubset, "log_normalizer", mutation)
    assert rejected(sp.MuProp(), SUBSETS)


def _nothing_left(x: Tensor, dim: int) -> Tensor:
    """The items that are never chosen weigh nothing."""
    return torch.full_like(x.select(dim, 0), -torch.inf)


def test_unchosen_items_left_out_of_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plackett_luce, "logsumexp", _nothing_left)
    assert rejected(sp.ScoreFunction(4), "two ranks among five items")


def _transposed(self: sp.LinearChain, *, unary: Tensor, transitions: Tensor) -> Tensor:
    """The normalizer of transitions from the later label to the earlier one."""
    before, offset = linear_chain._forward(unary, transitions.mT)
    return before[-1].logsumexp(-1) + offset


def test_transposed_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp.LinearChain, "log_normalizer", _transposed)
    assert rejected(sp.ScoreFunction(1), "chain of four labels")


def _means_alone(self: families.LogLinears, direction: Tensor) -> Tensor:
    """The derivative of the mean of independent bits in the place of that of the subset."""
    mean = self.mean.detach()
    return direction * mean * (1 - mean)


@pytest.mark.parametrize("estimator", [tilted(sp.DoubleCV()), sp.MuProp()], ids=str)
def test_wrong_derivative_of_the_marginals(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families.LogLinears, "through_mean", _means_alone)
    assert rejected(estimator, SUBSETS)


class StateForgotten(sp.Enumerate):
    """The last state is left out of the sum."""

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        kept = torch.arange(costs.points.shape[0]) < costs.points.shape[0] - 1
        return super().estimate(variables, draw, replace(costs, points=costs.points * kept[:, None]))


def test_exact_sum_that_is_not() -> None:
    assert rejected(StateForgotten(), BITS)


class Scaled(sp.ScoreFunction):
    """The leave-one-out score function, its gradient times a factor."""

    def __init__(self, samples: int = 4, *, factor: float = 1.0) -> None:
        super().__init__(samples)
        self.factor = factor

    def estimate(self, variables: Any, draw: Any, costs: Costs) -> Tensor:
        advantage = (costs.points - costs.mean()).detach() / (self.draws - 1)
        score = variables.score(draw.points)
        gradient = (advantage.reshape(advantage.shape + (1,) * (score.dim() - advantage.dim())) * score).sum(0)
        return surrogate(self.name, costs.mean(), (variables.logits,), (self.factor * gradient,))


@pytest.mark.parametrize("problem", [BITS, CLASSES])
def test_three_percent_off(problem: str) -> None:
    assert not rejected(Scaled(), problem)
    assert rejected(Scaled(factor=0.97), problem)
    assert rejected(Scaled(factor=1.03), problem)


def _scaled_twice(self: sp.PerturbAndMAP, standard: Tensor) -> Tensor:
    """1 / σ² in the place of 1 / σ."""
    return standard / self.scale


def _noise_itself(self: sp.PerturbAndMAP, standard: Tensor) -> Tensor:
    """Z in the place of 1 - e^-Z for Gumbel noise."""
    return standard


def test_scale_divided_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp.PerturbAndMAP, "slope", _scaled_twice)
    assert rejected(sp.PerturbedScore(4), "largest of four, normal noise")


def test_wrong_score_of_gumbel_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp.PerturbAndMAP, "slope", _noise_itself)
    assert rejected(sp.PerturbedScore(4), "largest of four, Gumbel noise")
