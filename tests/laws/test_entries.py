"""Distributions that are not what they seem, each once: the inputs that returned a wrong gradient without a word.

The z-tests compare at 6 standard errors, a false alarm of 2e-9 for each number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as pd
import pytest
import torch
from pyro.distributions.testing.rejection_exponential import RejectionExponential
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Dirichlet,
    Distribution,
    ExpTransform,
    Gumbel,
    Independent,
    Kumaraswamy,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    SigmoidTransform,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    Wishart,
)

import sampleprop as sp
from sampleprop.families import recognize


class EpsGreedy(Categorical):
    @property
    def probs(self) -> Tensor:
        return 0.7 * self.logits.softmax(-1) + 0.1


class Tempered(Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / 2


class Doubled(Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return 2 * super().rsample(sample_shape)


class Detached(Distribution):
    """Its location has no path to the log-probability, its scale has."""

    arg_constraints = Normal.arg_constraints

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return Normal(self.loc, self.scale).sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return Normal(self.loc.detach(), self.scale).log_prob(value)


class Masking(Independent):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) * 0.5


def leaf(*numbers: float) -> Tensor:
    return torch.tensor(numbers, requires_grad=True)


def close(found: Tensor, exact: Any) -> None:
    """The mean over the rows is `exact`, within 6 standard errors."""
    error = (found.mean(0) - torch.as_tensor(exact)).abs()
    assert bool((error <= 6 * found.std(0) / len(found) ** 0.5 + 1e-7).all()), (found.mean(0), exact)


@pytest.mark.parametrize(
    ("dist", "words"),
    [
        (lambda: EpsGreedy(logits=leaf(2.0, 0.0, -2.0)), "EpsGreedy, which overrides probs and inherits sample"),
        (lambda: Tempered(leaf(0.0), 1.0), "Tempered, which overrides log_prob and inherits sample from Normal"),
        (lambda: Doubled(leaf(0.0), 1.0), "Doubled, which overrides rsample and inherits sample and log_prob"),
        (lambda: Independent(Tempered(leaf(0.0), 1.0), 1), "Tempered, which overrides log_prob"),
        (
            lambda: Masking(Normal(leaf(0.0), 1.0), 1),
            "Masking, which overrides log_prob and inherits sample from I",
        ),
        (lambda: TransformedDistribution(Tempered(leaf(0.0), 1.0), [ExpTransform()]), "Tempered, which overrides"),
        (lambda: patched(Normal(leaf(0.0), 1.0)), "Normal whose log_prob was replaced on the object"),
        (lambda: pd.Normal(leaf(0.0, 1.0), 1.0).mask(torch.tensor([True, False])), "MaskedDistribution, which draws"),
        (
            lambda: pd.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=leaf(0.0, 1.0)),
            "overrides log_prob and rsample and inherits sample from TransformedDistribution",
        ),
    ],
)
@pytest.mark.parametrize(
    "estimator", [None, sp.ScoreFunction(), sp.Pathwise(), sp.EvolutionStrategies(), sp.LAX()], ids=str
)
def test_methods_that_contradict_each_other_are_refused(
    dist: Callable[[], Distribution], words: str, estimator: sp.Estimator[Any, Any] | None
) -> None:
    with pytest.raises(TypeError, match=f"needs a distribution whose samples follow its log_prob; got .*{words}"):
        sp.expect(lambda x: x.float().flatten(1).sum(-1), dist(), estimator)


def patched(dist: Any) -> Distribution:
    """The same object with another log_prob."""
    given = dist.log_prob
    dist.log_prob = lambda value: given(value) / 2
    return dist


def test_a_policy_that_defines_its_own_sample_and_log_prob_is_right() -> None:
    """ε-greedy over the softmax of (2, 0, -2), f = (1, 5, 9): 2.617 with gradient (-0.362, 0.280, 0.082)."""

    class Whole(EpsGreedy):
        def sample(self, sample_shape: Any = ()) -> Tensor:
            return super().sample(sample_shape)

        def log_prob(self, value: Tensor) -> Tensor:
            return Categorical(probs=self.probs, validate_args=False).log_prob(value)

    rows = torch.tensor([2.0, 0.0, -2.0]).expand(40_000, 3).clone().requires_grad_()
    torch.manual_seed(0)
    value = sp.expect(lambda x: torch.tensor([1.0, 5.0, 9.0])[x], Whole(logits=rows), sp.ScoreFunction())
    p = leaf(2.0, 0.0, -2.0)
    exact = ((0.7 * p.softmax(-1) + 0.1) * torch.tensor([1.0, 5.0, 9.0])).sum()
    close(torch.autograd.grad(value.sum(), rows)[0], torch.autograd.grad(exact, p)[0])
    close(value.detach(), exact.detach())


@pytest.mark.parametrize("b", [1.0, 5e4, 1e6, 1e20])
def test_torchs_beta_beside_a_large_concentration(b: float) -> None:
    """dE[x]/da = b / (a + b)²."""
    a = torch.full((40_000,), 1.5, requires_grad=True)
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(sp.expect(lambda x: x, Beta(a, b), sp.Pathwise()).sum(), a)
    close(found.double() * (1.5 + b) ** 2 / b, 1.0)
    assert found.std() / len(found) ** 0.5 < 0.01 * found.mean()


def test_torchs_dirichlet_beside_a_large_concentration() -> None:
    a = torch.tensor([1.5, 5e4, 3.0]).expand(40_000, 3).clone().requires_grad_()
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(sp.expect(lambda x: x[..., 0], Dirichlet(a), sp.Pathwise()).sum(), a)
    total = 50_004.5
    exact = torch.tensor([total - 1.5, -1.5, -1.5], dtype=torch.float64)
    close(found.double() * total**2 / exact, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("loc", [11.0, 15.0, 16.0])
def test_samples_that_a_sigmoid_rounds_have_no_score(loc: float) -> None:
    q = TransformedDistribution(Normal(leaf(loc), 1.0), [SigmoidTransform()])
    for _ in range(20):
        with pytest.raises(ValueError, match=r"SigmoidTransform rounds .* let f apply it: expect\(lambda y: f\("):
            sp.expect(lambda x: (x >= 1 - 1e-7).float(), q, sp.ScoreFunction())


@pytest.mark.parametrize("after", [[], [AffineTransform(1.0, -2.0)]])
def test_samples_that_a_tanh_rounds_have_no_score_whatever_was_drawn(after: list[AffineTransform]) -> None:
    q = TransformedDistribution(Normal(leaf(6.5), 1.0), [TanhTransform(cache_size=1), *after])
    for _ in range(20):
        with pytest.raises(ValueError, match=r"TanhTransform rounds .* let f apply it"):
            sp.expect(lambda x: x, q, sp.ScoreFunction())


def test_a_transform_far_from_its_edge_is_scored() -> None:
    q = TransformedDistribution(Normal(leaf(2.0), 1.0), [TanhTransform()])
    assert sp.expect(lambda x: x, q, sp.ScoreFunction()).requires_grad


@pytest.mark.parametrize("dist", [pd.Delta, lambda x: Detached(x, leaf(1.0, 1.0))], ids=["no path", "one of two"])
def test_a_log_prob_without_a_path_to_a_parameter_is_refused(dist: Callable[[Tensor], Distribution]) -> None:
    with pytest.raises(RuntimeError, match=r"ScoreFunction needs a log_prob that autograd can follow.*no path to"):
        sp.expect(lambda x: x, dist(leaf(0.3, 0.2)), sp.ScoreFunction())


def test_a_point_mass_is_right_by_its_path() -> None:
    v = leaf(0.3, 0.2)
    assert torch.equal(torch.autograd.grad(sp.expect(torch.square, pd.Delta(v)).sum(), v)[0], 2 * v)


def test_counts_beyond_the_last_outcome_are_refused() -> None:
    rate = torch.tensor(100.0, requires_grad=True)
    with pytest.raises(ValueError, match="outcomes=32, which counts exceed with probability 1"):
        sp.expect(lambda x: x, Poisson(rate), sp.GeneralizedGumbelSoftmax())
    assert sp.expect(lambda x: x, Poisson(rate), sp.GeneralizedGumbelSoftmax(outcomes=200)).requires_grad


def test_the_logistic_distribution_does_not_move() -> None:
    """As torch documents it; its support is the whole line."""
    loc = torch.zeros(20_000, requires_grad=True)
    base = Uniform(0.0, 1.0).expand((20_000,))
    q = TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(loc, torch.ones(20_000))])
    torch.manual_seed(0)
    value = sp.expect(lambda x: x.clamp(-1, 1), q, sp.ScoreFunction())
    (found,) = torch.autograd.grad(value.sum(), loc)
    close(found, torch.tensor(1.0).sigmoid() - torch.tensor(-1.0).sigmoid())


@pytest.mark.parametrize(
    "dist",
    [
        lambda x: TransformedDistribution(Uniform(0.2, 0.8), [SigmoidTransform().inv, AffineTransform(x, 1.0)]),
        lambda x: TransformedDistribution(Uniform(0.0, 1.0), [ExpTransform().inv, AffineTransform(x, 1.0)]),
    ],
)
def test_a_support_that_moves_is_refused_all_the_same(dist: Callable[[Tensor], Distribution]) -> None:
    with pytest.raises(TypeError, match="needs a support that does not move"):
        sp.expect(lambda x: x, dist(leaf(0.0)), sp.ScoreFunction())


def test_gumbel_in_half_precision() -> None:
    """E[x] = 0.5772; torch's base ends at 1 - 2⁻⁷."""
    loc, scale = torch.zeros(200_000, dtype=torch.bfloat16), torch.ones(200_000, dtype=torch.bfloat16)
    torch.manual_seed(0)
    found = recognize(Gumbel(loc, scale)).rsample(1).squeeze(0).float()
    close(found, 0.5772)


@pytest.mark.parametrize("rate", [1.3])
def test_partly_reparameterized_laws_are_scored(rate: float) -> None:
    """E[x] = 1 / rate, whose derivative with respect to `factor` is 0."""
    r = torch.full((20_000,), rate, requires_grad=True)
    factor = torch.full((20_000,), 0.25, requires_grad=True)
    with pytest.raises(TypeError, match="reparameterized only in part: the rest is in its score_parts"):
        sp.expect(lambda x: x, RejectionExponential(r, factor), sp.Pathwise())
    torch.manual_seed(0)
    value = sp.expect(lambda x: x, RejectionExponential(r, factor))
    by_rate, by_factor = torch.autograd.grad(value.sum(), (r, factor))
    close(by_rate, -1 / rate**2)
    close(by_factor, 0.0)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_a_probability_of_zero_loses_its_own_gradient_only(kind: Any, twice: bool) -> None:
    raw = leaf(0.2, 0.0, 0.5)
    costs = torch.tensor([1.0, 2.0, 5.0])

    def f(x: Tensor) -> Tensor:
        return costs[x] if kind is Categorical else x @ costs

    q = kind(probs=raw / raw.sum() if twice else raw)
    for _ in range(2):
        (found,) = torch.autograd.grad(sp.expect(f, q), raw, retain_graph=True)
        exact = (costs - (raw.detach() * costs).sum() / 0.7) / 0.7
        assert bool(found[1].isnan())
        torch.testing.assert_close(found[[0, 2]], exact[[0, 2]])


def test_masked_fill_erases_the_gradient_that_is_lost() -> None:
    logits = torch.zeros(3, requires_grad=True)
    mask = torch.tensor([True, False, False])
    kept = logits.softmax(-1).masked_fill(mask, 0.0)
    costs = torch.tensor([7.0, 1.0, 2.0])
    (found,) = torch.autograd.grad(sp.expect(lambda x: costs[x], Categorical(probs=kept)), logits)
    torch.testing.assert_close(found, torch.tensor([0.0, -0.25, 0.25]))
    certain = logits.sigmoid().masked_fill(mask, 1.0)
    q = Independent(Bernoulli(probs=certain), 1)
    for estimator in (None, sp.ScoreFunction(), sp.ARM(), sp.LocalExpectation()):
        (found,) = torch.autograd.grad(sp.expect(lambda x: x.sum(-1), q, estimator), logits, retain_graph=True)
        assert bool(found.isfinite().all())
        assert float(found[0]) == 0
    (own,) = torch.autograd.grad(sp.expect(lambda x: x.sum(-1), q, sp.ARM()), certain)
    assert own.isnan().tolist() == [True, False, False]


def test_what_the_sweep_found_beside_the_list() -> None:
    logit = torch.full((20_000,), 60.0, requires_grad=True)
    x = ContinuousBernoulli(logits=logit)
    score = torch.autograd.grad(recognize(x).log_prob(torch.full((1, 20_000), 0.98)).sum(), logit)[0]
    torch.testing.assert_close(score, torch.full((20_000,), 0.98 - 1 + 1 / 60), rtol=1e-3, atol=0)
    torch.manual_seed(0)
    high = recognize(Kumaraswamy(torch.tensor(1e4), torch.tensor(1e9))).sample(1000)
    assert 0.99 < float(high.min()) < float(high.max()) < 1  # torch draws 0
    with pytest.raises(ValueError, match="MeasureValued needs counts below"):
        sp.expect(lambda x: x, Poisson(torch.tensor(1e9, requires_grad=True)), sp.MeasureValued())
    with pytest.raises(ValueError, match="LAX needs a critic that is finite"):
        sp.expect(torch.sign, Normal(leaf(0.0), 1e36), sp.LAX())
    with pytest.raises(ValueError, match="The derivative of a sample of Beta needs concentrations of at least 1e-05"):
        sp.expect(lambda x: x, Beta(leaf(1e-6), leaf(1e-6)), sp.Pathwise())
    q = pd.MixtureOfDiagNormals(torch.zeros(2, 1), torch.ones(2, 1), leaf(0.0, 1.0))
    with pytest.raises(TypeError, match="whose own backward pass is not right"):
        sp.expect(lambda x: x.sum(-1), q, sp.Pathwise())


@pytest.mark.filterwarnings("ignore:Singular sample detected")
def test_wishart_has_a_pathwise_gradient_for_several_samples() -> None:
    scale = torch.ones(4000, requires_grad=True)
    q = Wishart(torch.tensor(5.0), scale_tril=scale[:, None, None] * torch.eye(2))
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(sp.expect(lambda x: x[..., 0, 0], q, sp.Pathwise(2)).sum(), scale)
    close(found, 10.0)


@pytest.mark.parametrize("estimator", [sp.StickingTheLanding(), sp.ImportanceWeighted(), sp.DoublyReparameterized()])
def test_check_sees_a_log_q_in_f_where_the_objective_subtracts_it(estimator: sp.Estimator[Any, Any]) -> None:
    mean, log_scale = leaf(0.3, -0.2), leaf(0.1, 0.2)
    q = Independent(Normal(mean, log_scale.exp()), 1)

    def log_p(z: Tensor) -> Tensor:
        return -(z - 1).square().sum(-1)

    def found(f: Callable[[Tensor], Tensor], estimator: sp.Estimator[Any, Any]) -> bool:
        return "log q in f" in [finding.name for finding in sp.check(f, q, estimator, replicates=128).findings]

    for beta in (-1.0, 1.0, 0.1):  # 1: the KL divergence as a cost

        def f(z: Tensor, beta: float = beta) -> Tensor:
            return beta * q.log_prob(z) + log_p(z)

        assert found(f, estimator)
        assert not found(f, sp.Pathwise())
    assert not found(log_p, estimator)
    assert not found(lambda z: log_p(z) - log_scale.exp().sum() * z.sum(-1) - mean.square().sum(), estimator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_distributions_with_several_coordinates(dtype: torch.dtype) -> None:
    """dE[x₀]/da of a Dirichlet; torch's own check of the simplex refuses points that are rounded to half precision."""
    a = torch.tensor([1.5, 2.0, 3.0], dtype=dtype).expand(40_000, 3).clone().requires_grad_()
    (found,) = torch.autograd.grad(sp.expect(lambda x: x[..., 0].float(), Dirichlet(a), sp.ScoreFunction()).sum(), a)
    close(found.float() * 6.5**2, torch.tensor([5.0, -1.5, -1.5]))
    loc = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
    q = MultivariateNormal(loc, scale_tril=torch.eye(2, dtype=dtype).expand(4, 2, 2))
    with pytest.raises(TypeError, match="The score of MultivariateNormal needs parameters in float32 or float64"):
        sp.expect(lambda x: x.float().sum(-1), q, sp.ScoreFunction())
    for estimator in (sp.SPSA(), sp.EvolutionStrategies(), sp.Pathwise()):
        assert sp.expect(lambda x: x.float().sum(-1), q, estimator).requires_grad
