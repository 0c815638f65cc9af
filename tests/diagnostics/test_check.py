"""`check` catches each mistake by its name, and passes what is right.

Seeds are fixed. A bias is found from z = 4 on: a false alarm once in 15 000 tests, and each test here is one seed.
"""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Chi2,
    Distribution,
    Exponential,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    LKJCholesky,
    LogisticNormal,
    LogNormal,
    Multinomial,
    Normal,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    TransformedDistribution,
    constraints,
)

from diagnostics.mistakes import bits, normals, smooth
from sampleprop import (
    REBAR,
    SPSA,
    VIMCO,
    DisARM,
    DoubleCV,
    DoublyReparameterized,
    Enumerate,
    Estimator,
    EvolutionStrategies,
    ImportanceWeighted,
    LocalExpectation,
    Pathwise,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    expect,
)
from sampleprop.diagnostics import Check, check

NAMES = {"f mixes rows", "random f", "f ignores x", "jump in f", "wrong gradient", "biased gradient", "wrong value"}


def names(result: Check) -> list[str]:
    return [finding.name for finding in result.findings]


class TooLong(ScoreFunction):
    """A user's own estimator whose gradient is a tenth too long."""

    def __init__(self, samples: int = 2, length: float = 1.1) -> None:
        super().__init__(samples)
        self.length = length

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value + (self.length - 1) * (value - value.detach())


class Reduced(ScoreFunction):
    """One that reduces over the batch."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().estimate(*args, **kwargs).mean()


class Detached(ScoreFunction):
    """One that returns no gradient."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().estimate(*args, **kwargs).detach()


class Doubled(ScoreFunction):
    """One whose value is not an average."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value + value.detach()


class Miscounted(ScoreFunction):
    """One that says it needs fewer evaluations than it does."""

    def calls(self, variables: Any) -> tuple[int, int]:
        return 1, 0


class Admitted(TooLong):
    """One that says it is biased."""

    unbiased = False


class WrongShape(ScoreFunction):
    """One whose points lack the sample dimension."""

    def draw(self, *args: Any, **kwargs: Any) -> Any:
        draw = super().draw(*args, **kwargs)
        return draw._replace(points=draw.points[0])


@pytest.mark.parametrize(
    ("dist", "estimator"),
    [
        (bits(), ScoreFunction(4)),
        (bits(), Enumerate()),
        (bits(3, 14), ScoreFunction(4)),
        (normals(), Pathwise(2)),
        (normals(), ScoreFunction(8)),
        (OneHotCategorical(logits=torch.linspace(-1, 1, 10).reshape(2, 5)), ScoreFunction(2)),
        (Independent(Binomial(torch.tensor([3, 4]), logits=torch.zeros(2)), 1), ScoreFunction(2)),
        (Independent(Exponential(torch.ones(2)), 1), Pathwise(4)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_right_passes(dist: Distribution, estimator: Any) -> None:
    result = check(smooth, dist, estimator)
    assert result.ok, result
    assert result.findings == ()
    assert result.bias is not None
    assert not result.bias.seen
    assert math.isfinite(result.bias.visible)
    assert "would have been seen" in repr(result)


def test_batch_norm_in_train_mode_mixes_rows() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    def f(x: Tensor) -> Tensor:
        return network(x.flatten(0, 1)).reshape(x.shape[:2])

    result = check(f, bits(), ScoreFunction(4))
    assert not result.ok
    assert names(result) == ["f mixes rows"]
    assert "eval mode" in repr(result)
    assert "Independent" in repr(result)
    network.eval()
    assert check(f, bits(), ScoreFunction(4)).ok


def test_an_in_batch_contrastive_loss_mixes_rows() -> None:
    def f(x: Tensor) -> Tensor:
        similarity = x @ x.mT  # [k, batch, batch]
        return -similarity.log_softmax(-1).diagonal(dim1=-2, dim2=-1)

    assert names(check(f, bits(), ScoreFunction(4))) == ["f mixes rows"]


def test_costs_centred_over_the_samples_mix_rows() -> None:
    assert names(check(lambda x: smooth(x) - smooth(x).mean(0), bits(), ScoreFunction(4))) == ["f mixes rows"]


def test_dropout_is_named_and_still_unbiased() -> None:
    dropout = nn.Dropout(0.3)
    result = check(lambda x: smooth(dropout(x)), bits(), ScoreFunction(4))
    assert names(result) == ["random f"]
    assert "dropout" in repr(result)
    assert result.ok


def test_a_random_f_beyond_torch_is_not_blamed_for_more() -> None:
    calls = iter(range(10_000))
    result = check(lambda x: smooth(x) + 0.01 * (next(calls) % 2), bits(), ScoreFunction(4))
    assert names(result) == ["random f"]
    assert any("mixes rows" in text for text in result.unchecked)


def test_a_jump_that_few_draws_reach() -> None:
    """P(x > 2.5) = 0.006: sixteen draws cost the same, and the gradient through f is zero."""
    q = torch.distributions.Normal(torch.zeros(4, requires_grad=True), 1.0)
    assert "jump in f" in names(check(lambda x: (x > 2.5).to(x.dtype) + 0 * x, q, Pathwise()))
    assert names(check(lambda x: (x > 2.5).to(x.dtype), q, ScoreFunction(4))) == []


def test_a_cost_that_depends_on_the_place_of_its_sample() -> None:
    def f(x: Tensor) -> Tensor:
        weights = 1 / (1 + torch.arange(len(x))).float()
        return smooth(x) * weights.reshape(-1, 1)

    result = check(f, bits(), ScoreFunction(4))
    assert names(result) == ["f counts samples"]
    assert result.ok is False
    per_element = torch.arange(5.0)
    assert check(lambda x: smooth(x) * per_element, bits(), ScoreFunction(4)).ok


def test_a_cost_over_the_number_of_samples() -> None:
    assert names(check(lambda x: smooth(x) / len(x), bits(), ScoreFunction(4))) == ["f counts samples"]


def test_what_is_biased_in_general_is_said_where_no_bias_is_seen() -> None:
    linear = lambda x: x @ torch.tensor([1.0, -2.0, 0.5, 1.0])  # noqa: E731
    result = check(linear, bits(), StraightThrough())  # right for a linear cost
    assert result.ok is True
    assert names(result) == ["biased in general"]
    assert "StraightThrough is biased for most f" in repr(result)


def test_an_f_that_ignores_x() -> None:
    fixed = torch.rand(5)
    result = check(lambda x: fixed.expand(x.shape[:2]), bits(), ScoreFunction(4))
    assert names(result) == ["f ignores x"]
    assert not result.ok


@pytest.mark.parametrize("height", [1.0, 0.05])
def test_a_jump_is_found_under_pathwise_only(height: float) -> None:
    def f(x: Tensor) -> Tensor:
        return smooth(x) + height * (x > 0.3).to(x.dtype).sum(-1)

    assert names(check(f, normals(), Pathwise()))[0] == "jump in f"
    assert check(f, normals(), ScoreFunction(8)).ok


def test_a_jump_between_the_points_matters_to_relaxations() -> None:
    def f(x: Tensor) -> Tensor:
        return smooth(x) + (x > 0.3).to(x.dtype).sum(-1)

    assert names(check(f, bits(), REBAR()))[0] == "jump in f"
    assert check(smooth, bits(), REBAR()).ok
    assert check(f, bits(), DoubleCV()).ok  # needs the derivative at the points themselves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", [ScoreFunction(4), DisARM(), Enumerate(), LocalExpectation(), REBAR()], ids=repr)
def test_outcomes_too_rare_to_be_drawn_are_no_false_alarm(estimator: Any, dtype: torch.dtype) -> None:
    for logits in ([12.0, -12.0, 12.0], [12.0, 0.3, -11.0], [7.5, -8.0, 0.0]):
        dist = Independent(Bernoulli(logits=torch.tensor(logits, dtype=dtype, requires_grad=True)), 1)
        result = check(smooth, dist, estimator)
        assert result.ok, result
        assert not result.bias.seen
    rare = Independent(OneHotCategorical(logits=torch.tensor([[0.0, 12.0, 1.0], [-13.0, 0.0, 0.0]], dtype=dtype)), 1)
    assert check(lambda x: (x.sum(-2) * torch.arange(3)).sum(-1).square(), rare, ScoreFunction(4)).ok


def test_what_the_rare_outcomes_hide_is_said_and_no_more_is_hidden() -> None:
    sure = Independent(Bernoulli(logits=torch.tensor([12.0, -12.0, 12.0], dtype=torch.float64)), 1)
    drawn, shown = (check(smooth, sure, estimator).bias for estimator in (ScoreFunction(4), LocalExpectation()))
    assert drawn.visible > 1  # it cannot tell
    assert shown.visible < 0.5  # f is shown the flips, drawn or not
    value = re.search("an error of (.*) would", repr(check(smooth, sure, Enumerate())))
    assert float(value.group(1)) < 1e-9  # every state is shown, so nothing is missed
    partly = Independent(Bernoulli(logits=torch.tensor([12.0, 0.3, -0.4], dtype=torch.float64)), 1)
    assert names(check(smooth, partly, TooLong(4), replicates=16384)) == ["wrong gradient"]


def test_a_long_run_that_never_saw_a_gradient_is_no_reference() -> None:
    sure = Independent(Bernoulli(logits=torch.full((14,), 25.0, dtype=torch.float64)), 1)
    result = check(smooth, sure, ScoreFunction(2), replicates=128)
    assert result.bias is None
    assert any("every gradient was zero" in text for text in result.unchecked)


def test_an_offset_in_f_is_not_taken_for_ignoring_x() -> None:
    assert names(check(lambda x: 1000 + 1e-3 * x.sum(-1), bits(), ScoreFunction(4))) == ["offset in f"]
    assert names(check(lambda x: 1000 + x.sum(-1), bits(), ScoreFunction(4))) == []
    assert names(check(lambda x: 1000 + 1e-9 * x.sum(-1), bits(), ScoreFunction(4))) == ["f ignores x"]


@pytest.mark.parametrize(
    "estimator",
    [ImportanceWeighted(4), ImportanceWeighted(1), DoublyReparameterized(4), VIMCO(4), StickingTheLanding(2)],
    ids=repr,
)
def test_bounds_and_the_elbo_have_a_reference_of_their_own(estimator: Any) -> None:
    dist = Independent(Normal(torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), 1.0), 1)
    result = check(lambda z: -(z - 1).square().sum(-1), dist, estimator)
    assert result.findings == ()
    assert result.bias.visible < 0.5
    assert "the value, summed over the batch, is right" in repr(result)


def test_another_gradient_for_the_same_bound_is_a_bias_that_is_admitted() -> None:
    dist = Independent(Normal(torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), 1.0), 1)
    result = check(lambda z: -(z - 1).square().sum(-1), dist, ReweightedWakeSleep(4))
    assert names(result) == ["biased gradient"]


class Tilted(Bernoulli):
    """A subclass with a state that its parameters do not show."""

    def __init__(self, logits: Tensor, tilt: float = 0.0, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)
        self.tilt = tilt


class Shifted(Normal):
    """A subclass that needs more than its parameters, and cannot be expanded."""

    def __init__(self, loc: Tensor, scale: Tensor, shift: float) -> None:
        super().__init__(loc, scale)
        self.shift = shift


def leaf(*shape: int) -> Tensor:
    return torch.linspace(-0.5, 0.7, math.prod(shape)).reshape(shape).requires_grad_()


class Bare(Distribution):
    """A user's own distribution that states neither its parameters nor how it is expanded; `spread` is 0-dim."""

    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, spread: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.spread = loc, spread
        super().__init__(loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.spread * torch.randn(*sample_shape, *self.batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) / self.spread).square() / 2 - self.spread.log()


class Named(Bare):
    """One that names its parameters, of which one has no batch dimension."""

    arg_constraints = {"loc": constraints.real, "spread": constraints.positive}  # noqa: RUF012


def below() -> dict[str, Distribution]:
    """Distributions that cannot be rebuilt from parameters under their names, so that the tensors in them count."""
    half = torch.tensor(0.5)
    return {
        "LogNormal": LogNormal(leaf(3), 0.5 * leaf(3).exp()),
        "HalfNormal": HalfNormal(leaf(3).exp()),
        "HalfCauchy": HalfCauchy(leaf(3).exp()),
        "Chi2": Chi2(3 + leaf(3)),
        "InverseGamma": InverseGamma(3 + leaf(3), leaf(3).exp()),
        "Beta": Beta(leaf(3).exp(), 2 * leaf(3).exp()),
        "LogisticNormal": LogisticNormal(leaf(2), leaf(2).exp()),
        "RelaxedBernoulli": RelaxedBernoulli(half, logits=leaf(3)),
        "RelaxedOneHotCategorical": RelaxedOneHotCategorical(half, logits=leaf(3)),
        "LKJCholesky": LKJCholesky(2, torch.tensor(1.5, requires_grad=True)),
        "Multinomial": Multinomial(4, logits=leaf(3)),
        "TransformedDistribution": TransformedDistribution(Normal(leaf(3), 1.0), [AffineTransform(leaf(3), 2.0)]),
        "Tilted": Tilted(leaf(3), 1.0),
        "Shifted": Shifted(leaf(3), leaf(3).exp(), 1.0),
        "Bare": Bare(leaf(3), torch.tensor(1.5, requires_grad=True)),
        "Named": Named(leaf(3), torch.tensor(1.5, requires_grad=True)),
    }


def bounded(dist: Distribution) -> Any:
    """A cost that is bounded whatever the tails."""
    event = tuple(range(-len(dist.event_shape), 0))
    return lambda x: (torch.atan(x) - 0.4).square().sum(event) if event else (torch.atan(x) - 0.4).square()


class Longer(Pathwise):
    """Twice the pathwise gradient, on purpose."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return 2 * value - value.detach()


def custom() -> dict[str, Distribution]:
    """Distributions of the user's: one that does not name its parameters, one with a parameter of dimension 0."""
    return {name: dist for name, dist in below().items() if name in ("Bare", "Named")}


@pytest.mark.parametrize("name", custom())
@pytest.mark.parametrize("estimator", [SPSA(), EvolutionStrategies(3)], ids=str)
def test_what_needs_copies_of_the_parameters_says_so(name: str, estimator: Estimator[Any, Any]) -> None:
    with pytest.raises(TypeError, match=f"needs a distribution that keeps .* got {name}|got spread of shape"):
        expect(torch.square, custom()[name], estimator)


@pytest.mark.parametrize("name", below())
def test_the_gradient_is_compared_with_respect_to_the_tensors_inside(name: str) -> None:
    dist = below()[name]
    right = check(bounded(dist), dist, ScoreFunction(4), replicates=1024)
    assert right.ok is True, right
    assert right.bias is not None
    assert right.bias.visible_along < 1
    doubled = Longer(4) if dist.has_rsample else TooLong(4, length=2)
    wrong = check(bounded(dist), dist, doubled, replicates=1024)
    assert wrong.ok is False
    assert names(wrong) == ["wrong gradient"]


def test_tensors_of_the_users_own() -> None:
    encoder = nn.Linear(2, 3)
    mean = encoder(torch.ones(4, 2))
    dist = LogNormal(mean, 0.5)
    for parameters in (None, [mean], [encoder.bias]):
        result = check(bounded(dist), dist, Pathwise(2), parameters=parameters, replicates=512)
        assert result.ok is True, result
        assert names(check(bounded(dist), dist, Longer(2), parameters=parameters, replicates=512)) == ["wrong gradient"]
    assert encoder.weight.grad is None
    assert check(smooth, bits(), ScoreFunction(2), parameters=[mean]).bias is None  # no path from there to the bits


@pytest.mark.parametrize(
    ("dist", "words"),
    [
        (Independent(Tilted(torch.zeros(3), 1.0), 1), "there are none. Build the distribution from parameters that"),
        (LogNormal(torch.zeros(3), torch.ones(3)), "there are none. Build the distribution from parameters that"),
        (LogNormal(torch.zeros(2**19, requires_grad=True), 1.0), "or pass parameters= to check"),
        (Independent(Bernoulli(logits=torch.zeros(0, 3)), 1), "the batch is empty"),
    ],
    ids=["state", "detached", "many", "empty"],
)
def test_what_cannot_be_compared_is_neither_right_nor_wrong(dist: Distribution, words: str) -> None:
    result = check(lambda x: x.sum(-1) if dist.event_shape else x, dist, ScoreFunction(2))
    assert result.ok is None
    assert result.bias is None
    assert re.search(words, " ".join(result.unchecked))
    assert "the gradient was not compared" in repr(result)


def test_an_f_bound_to_one_number_of_points_is_a_finding() -> None:
    result = check(lambda x: smooth(x.reshape(2, 5, 4)), bits(), ScoreFunction(2))
    assert names(result) == ["fails"]
    assert "Let f read k from x.shape[0]" in repr(result)


def test_probabilities_of_zero_and_one() -> None:
    probs = torch.tensor([0.0, 0.5, 1.0])
    assert check(smooth, Independent(Bernoulli(probs=probs), 1), ScoreFunction(4)).ok
    assert check(smooth, Independent(Bernoulli(probs=probs.requires_grad_()), 1), ScoreFunction(4)).ok


@pytest.mark.parametrize(("wrong", "words"), [(None, "got None"), (ScoreFunction, r"Make one: ScoreFunction\(\)")])
def test_what_is_no_estimator_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check(smooth, bits(), wrong)


def test_what_is_steep_or_has_a_kink_is_no_jump() -> None:
    assert check(lambda x: (50 * x).sigmoid().sum(-1), normals(), Pathwise(16)).ok
    assert check(lambda x: x.abs().sqrt().sum(-1) + x.relu().sum(-1), normals(), Pathwise(16)).ok


@pytest.mark.parametrize(
    ("estimator", "name", "severity", "words"),
    [
        (TooLong(2), "wrong gradient", "error", "states that it is unbiased"),
        (Doubled(2), "wrong value", "error", "Average the costs"),
        (Miscounted(2), "evaluations", "warning", "`evaluations` says 1"),
        (Reduced(2), "fails", "error", "one estimate for each batch element"),
        (Detached(2), "fails", "error", "value with a gradient"),
        (WrongShape(2), "fails", "error", "needs points"),
        (Pathwise(), "refused", "error", "needs a continuous distribution"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_estimators(estimator: Any, name: str, severity: str, words: str) -> None:
    result = check(lambda x: smooth(x).sin(), bits(), estimator)
    assert names(result) == [name]
    assert result.findings[0].severity == severity
    assert result.ok == (severity != "error")
    assert words in repr(result)


def test_the_size_of_a_bias_is_measured() -> None:
    result = check(smooth, bits(), TooLong(4), replicates=8192)
    assert result.bias is not None
    assert result.bias.along == pytest.approx(0.1, abs=0.02)
    assert result.bias.relative == pytest.approx(0.1, abs=0.02)
    assert result.bias.visible_along < 0.05


def test_a_bias_that_is_admitted_is_a_note() -> None:
    result = check(smooth, bits(), Admitted(4), replicates=8192)
    assert names(result) == ["biased gradient"]
    assert result.ok


def test_more_replicates_see_smaller_biases() -> None:
    few, many = (check(smooth, bits(), ScoreFunction(4), replicates=r).bias for r in (128, 8192))
    assert few is not None
    assert many is not None
    assert many.visible < few.visible / 4


def test_errors_of_f_are_findings() -> None:
    assert "one cost for each point" in repr(check(lambda x: x, bits(), ScoreFunction()))
    assert "finite" in repr(check(lambda x: x.sum(-1).log(), bits(), ScoreFunction(64)))
    assert "no path to x" in repr(check(lambda x: x.detach().sum(-1), normals(), Pathwise()))
    assert not check(lambda x: x, bits(), ScoreFunction()).ok


def test_what_could_not_be_checked_is_said() -> None:
    certain = check(lambda x: x.double(), Categorical(logits=torch.tensor([0.0, -200.0])), ScoreFunction())
    assert any("same point" in text for text in certain.unchecked)


def test_nothing_is_changed() -> None:
    dist, network = bits(), nn.Linear(4, 1)
    estimator = ScoreFunction(4).train()
    before = torch.get_rng_state()
    check(lambda x: network(x).squeeze(-1), dist, estimator)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.weight.grad is None
    assert estimator.training


def test_shown_in_a_notebook_with_escapes() -> None:
    html = check(lambda x: x, bits(), ScoreFunction())._repr_html_()
    assert html.count("<tr>") == 1
    assert "[k, *batch]" in html


def test_too_few_replicates_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 128"):
        check(smooth, bits(), ScoreFunction(), replicates=10)
