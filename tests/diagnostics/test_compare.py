"""`compare` measures what is known otherwise: variances worked out by hand, and biases put in on purpose."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)

from sampleprop import (
    VIMCO,
    DisARM,
    DoublyReparameterized,
    Enumerate,
    ImportanceWeighted,
    LearnedBaseline,
    MovingAverage,
    Pathwise,
    ReinMax,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
)
from sampleprop.diagnostics import Comparison, compare
from sampleprop.diagnostics.comparing.row import COLUMNS, Skipped
from sampleprop.diagnostics.measuring.statistics import bias


def bits(size: int = 3, batch: tuple[int, ...] = ()) -> Distribution:
    return Independent(Bernoulli(logits=torch.full((*batch, size), 0.5, requires_grad=True)), 1)


def smooth(x: Tensor) -> Tensor:
    return (x.sum(-1) - 1.3).square() + x.prod(-1)


class TooLong(ScoreFunction):
    """The gradient is a fifth too long."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value + 0.2 * (value - value.detach())


class TooShort(ScoreFunction):
    """The gradient is half as long as it should be."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return value - 0.5 * (value - value.detach())


def test_the_variance_is_the_one_worked_out_by_hand() -> None:
    # One fair bit, f = 3b, one sample: the gradient is 3b (b - 1/2), 3/2 or 0; mean 3/4, variance 9/16.
    # Pathwise on N(0, 1) with f = x²/2: the gradient by the mean is x, variance 1/k.
    fair = Bernoulli(logits=torch.zeros((), requires_grad=True))
    table = compare(lambda b: 3 * b, fair, [ScoreFunction(1)], budget=1, replicates=8192)
    row = table.rows[0]
    assert abs(row.variance - 9 / 16) < 5 * row.variance_error
    assert row.variance_error < 0.02
    assert row.signal_to_noise == pytest.approx(1.0, abs=0.05)
    standard = Normal(torch.zeros((), requires_grad=True), 1.0)
    row = compare(lambda x: x.square() / 2, standard, [Pathwise()], budget=4, exact=torch.zeros(())).rows[0]
    assert abs(row.variance - 1 / 4) < 5 * row.variance_error


def test_every_estimator_spends_the_budget() -> None:
    baseline = ScoreFunction(1, baseline=MovingAverage())
    table = compare(smooth, bits(), [ScoreFunction(), Enumerate(), baseline], budget=9, replicates=128, train_steps=1)
    assert {row.label: row.evaluations for row in table.rows} == {
        "ScoreFunction(samples=9)": 9,
        "Enumerate()": 8,
        "ScoreFunction(samples=9, baseline=MovingAverage)": 9,
    }
    assert all(row.milliseconds > 0 and row.replicates == 128 for row in table.rows)
    assert table.rows[0].label == "Enumerate()"


def test_a_bias_is_seen_measured_and_not_ranked() -> None:
    table = compare(smooth, bits(), [TooLong(), ScoreFunction()], budget=8, replicates=4096)
    assert [(row.name, row.rank, row.biased) for row in table.rows] == [
        ("ScoreFunction", 1, False),
        ("TooLong", None, True),
    ]
    wrong = table.rows[1]
    assert wrong.bias == pytest.approx(0.2, abs=0.03)
    assert wrong.error > wrong.variance
    assert table.rows[0].bias_visible < 0.1


def test_the_long_run_counts_its_own_error() -> None:
    """Without an exact gradient the reference is noisy, and z stays calm."""
    dist = bits(14)
    table = compare(smooth, dist, [ScoreFunction(), TooLong()], budget=8)
    assert "long run" in table.reference
    assert "standard error" in table.reference
    assert [(row.name, row.biased) for row in table.rows] == [("ScoreFunction", False), ("TooLong", True)]


def test_200_latents_have_a_reference_and_a_rank_at_equal_time_and_at_equal_evaluations() -> None:
    told = []
    dist = bits(200, (2,))
    weights = torch.linspace(-1, 1, 200)
    f = lambda x: ((x * weights).sum(-1) - 1).square()  # noqa: E731
    given = [ScoreFunction(), DisARM(), TooShort()]
    table = compare(f, dist, given, budget=4, replicates=512, progress=lambda *args: told.append(args))
    assert "long run of ScoreFunction(samples=32), standard error" in table.reference
    right = [row for row in table.rows if not row.biased]
    assert {row.name for row in right} == {"ScoreFunction", "DisARM"}
    assert table.rows[-1].name == "TooShort"
    for rank, cost in (("rank", "variance_time"), ("rank_by_evaluations", "variance_evaluations")):
        assert [getattr(row, rank) for row in sorted(right, key=lambda row: getattr(row, cost))] == [1, 2]
        assert getattr(table.rows[-1], rank) is None
    assert told[-1] == ("measuring", 96, 96)


def test_an_estimator_that_does_not_use_its_budget_is_not_ranked_as_if_it_did() -> None:
    table = compare(smooth, bits(), [ScoreFunction(2), Enumerate()], budget=8, replicates=128)
    assert [(row.name, row.rank_by_evaluations) for row in table.rows] == [("Enumerate", 1), ("ScoreFunction", 2)]
    assert table.rows[1].variance_evaluations == 8 * table.rows[1].variance


def test_bounds_of_one_objective_are_compared_and_others_listed_with_the_reason() -> None:
    dist = Independent(Normal(torch.zeros(3, requires_grad=True), 1.0), 1)
    log_joint = lambda z: -(z - 1).square().sum(-1)  # noqa: E731
    given = [VIMCO(), ImportanceWeighted(), DoublyReparameterized(), StickingTheLanding(), ScoreFunction()]
    table = compare(log_joint, dist, given, budget=4, replicates=1024)
    assert {row.name for row in table.rows} == {"VIMCO", "ImportanceWeighted", "DoublyReparameterized"}
    assert not any(row.biased for row in table.rows)
    assert "VIMCO(samples=4)" in table.reference
    reasons = {skipped.label: skipped.reason for skipped in table.skipped}
    assert "objective, elbo; this comparison is of log-mean-exp, K = 4" in reasons["StickingTheLanding(samples=4)"]
    assert "objective, mean" in reasons["ScoreFunction(samples=4)"]
    single = compare(log_joint, dist, [ImportanceWeighted(), StickingTheLanding()], budget=1, replicates=1024)
    assert [row.biased for row in single.rows] == [False, False]  # the bound of one sample is the ELBO


def test_a_given_gradient_with_outcomes_too_rare_to_be_drawn() -> None:
    # L = 3p with p = σ(-12): the gradient is 3 p (1 - p), from an outcome expected 0.1 times.
    dist = Bernoulli(logits=torch.tensor(-12.0, dtype=torch.float64, requires_grad=True))
    p = torch.sigmoid(torch.tensor(-12.0, dtype=torch.float64))
    row = compare(lambda b: 3 * b, dist, [ScoreFunction()], exact=3 * p * (1 - p)).rows[0]
    assert not row.biased
    assert row.bias_visible > 1


@pytest.mark.parametrize(
    "estimator", [Pathwise(), ScoreFunction(), ScoreFunction(1, baseline=LearnedBaseline())], ids=str
)
def test_a_distribution_that_cannot_be_copied_is_measured_by_the_tensors_inside(estimator: Any) -> None:
    """LogNormal as the normal distribution whose samples f takes to the power of e: |z| < 5 (6e-7)."""
    loc, scale = torch.tensor([0.1, 0.4], requires_grad=True), torch.tensor([0.5, 0.3], requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return (x - 1).square() / (1 + x)

    one = compare(f, LogNormal(loc, scale), [estimator], budget=4)
    other = compare(lambda y: f(y.exp()), Normal(loc, scale), [estimator], budget=4)
    assert one.parameters == ("base_dist.loc", "base_dist.scale")
    (row,), (expected,) = one.rows, other.rows
    assert row.claims_unbiased
    assert not row.biased
    assert row.trained == expected.trained
    assert row.replicates == expected.replicates == 1024
    error = math.hypot(row.variance_error, expected.variance_error)
    assert abs(row.variance - expected.variance) < 5 * error


def test_an_exact_gradient_by_the_tensors_inside() -> None:
    """E[x] = exp(μ + σ²/2)."""
    loc = torch.tensor(0.3, requires_grad=True)
    dist = LogNormal(loc, 0.5)
    exact = (loc + 0.125).exp().detach()
    for given in (exact, (exact,), {"base_dist.loc": exact}):
        assert not compare(lambda x: x, dist, [Pathwise()], exact=given, replicates=256).rows[0].biased
        assert compare(lambda x: 2 * x, dist, [Pathwise()], exact=given, replicates=256).rows[0].biased
    with pytest.raises(ValueError, match=r"of its shape: base_dist.loc \[\]"):
        compare(lambda x: x, dist, [Pathwise()], exact=torch.ones(2), replicates=256)


class Moved(Transform):
    """A flow of one layer, with a network of its own."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)
        self.net = nn.Linear(1, 3)

    def _call(self, x: Tensor) -> Tensor:
        return x + self.net(torch.ones(1))

    def _inverse(self, y: Tensor) -> Tensor:
        return y - self.net(torch.ones(1))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


def test_the_network_of_a_transform_is_inside() -> None:
    flow = Moved()
    dist = TransformedDistribution(Independent(Normal(torch.zeros(3), 1.0), 1), [flow])
    dist.rsample()  # a sample in the cache is none of its parameters
    found = compare(lambda x: (x - 1).square().sum(-1), dist, [Pathwise()], replicates=128)
    assert found.parameters == ("transforms.0.net.weight", "transforms.0.net.bias")
    assert not found.rows[0].biased
    assert flow.net.bias.grad is None


def test_tensors_that_were_computed_from_others_inside_do_not_count_twice() -> None:
    logits = torch.zeros(3, requires_grad=True)
    mixture = MixtureSameFamily(Categorical(logits=logits), LogNormal(torch.ones(3, requires_grad=True), 1.0))
    assert mixture.mixture_distribution.probs.requires_grad  # now kept beside the logits
    found = compare(lambda x: x.log(), mixture, [ScoreFunction()], replicates=128)
    assert sorted(found.parameters) == ["_component_distribution.base_dist.loc", "_mixture_distribution.logits"]


@pytest.mark.parametrize(("wrong", "words"), [(None, "got None"), (ScoreFunction, r"Make one: ScoreFunction\(\)")])
def test_what_is_no_estimator_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        compare(smooth, bits(), [wrong])


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="batch that is not empty"):
        compare(smooth, bits(3, (0,)), [ScoreFunction()])
    table = compare(lambda x: smooth(x.reshape(4, 3)), bits(3, ()), [ScoreFunction()], budget=4)
    assert table.rows == ()
    assert "RuntimeError: shape '[4, 3]' is invalid" in table.skipped[0].reason
    assert "(test_compare.py, line " in table.skipped[0].reason
    assert "Let f read k from x.shape[0]" in table.skipped[0].reason


def test_the_statistic_is_standard_under_no_bias() -> None:
    """Of 400 unbiased samples at most one has z above 4, and about half are above their median."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    gradient = torch.ones(6, dtype=torch.float64)
    z = []
    for _ in range(400):
        noise = torch.randn(2, 32, 6, generator=generator, dtype=torch.float64) @ mixing
        z.append(bias(gradient + noise[0], gradient + 0.3 * noise[1], 1e-12).z)
    z = torch.tensor(z)
    assert int((z > 4).sum()) <= 1
    assert 0 < float(z.median()) < 1  # the larger of two statistics
    assert float((z > 1.64).double().mean()) < 0.15  # 10 % if the two were independent


def test_the_statistic_has_the_power_that_it_states() -> None:
    """A bias of the visible size is seen in at least 95 of 100 samples (99 is the claim), whatever its direction."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.zeros(8, dtype=torch.float64)
    gradient[0] = 1.0
    seen = 0
    for _ in range(100):
        noise = torch.randn(32, 8, generator=generator, dtype=torch.float64)
        visible = bias(gradient + noise, gradient.expand(32, 8), 1e-12).visible
        shift = visible * torch.nn.functional.normalize(torch.randn(8, generator=generator, dtype=torch.float64), dim=0)
        noise = torch.randn(32, 8, generator=generator, dtype=torch.float64)
        seen += bias(gradient + shift + noise, gradient.expand(32, 8), 1e-12).seen
    assert seen >= 95


def test_exact_gradients_by_name_in_order_and_their_refusal() -> None:
    loc, scale = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 0.5], requires_grad=True)
    dist = Independent(Normal(loc, scale), 1)
    exact = {"scale": 2 * scale.detach(), "loc": 2 * loc.detach()}
    f = lambda x: x.square().sum(-1)  # noqa: E731
    for given in (exact, (exact["loc"], exact["scale"])):
        table = compare(f, dist, [Pathwise()], exact=given, budget=4)
        assert not table.rows[0].biased
        assert table.parameters == ("loc", "scale")
        assert table.gradient == pytest.approx(math.sqrt(4 + 16 + 4 + 1))
    assert (
        compare(f, dist, [Pathwise()], exact={"loc": -exact["loc"], "scale": exact["scale"]}, budget=4).rows[0].biased
    )
    fixed = Independent(Normal(loc, scale.detach()), 1)
    assert compare(f, fixed, [Pathwise()], exact=exact["loc"], budget=4, replicates=128).parameters == ("loc",)
    for wrong in (exact["loc"], (exact["loc"], exact["scale"][:1]), {"loc": exact["loc"], "sigma": exact["scale"]}):
        with pytest.raises(ValueError, match=r"loc \[2\], scale \[2\]"):
            compare(f, dist, [Pathwise()], exact=wrong)


def test_what_cannot_take_part_is_listed_with_the_reason() -> None:
    def black_box(x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy()).square().sum(-1)

    dist = Independent(Normal(torch.zeros(2, requires_grad=True), 1.0), 1)
    given = [ScoreFunction(), Pathwise(), Enumerate(), ScoreFunction(3, baseline=MovingAverage())]
    table = compare(black_box, dist, given, budget=2, replicates=128)
    assert [row.name for row in table.rows] == ["ScoreFunction", "ScoreFunction"]
    reasons = {skipped.label: skipped for skipped in table.skipped}
    assert "no path to x" in reasons["Pathwise(samples=2)"].reason
    assert reasons["Enumerate()"].refused
    small = compare(smooth, bits(), [Enumerate()], budget=4, replicates=128)
    assert small.rows == ()
    assert "does not fit the budget of 4" in small.skipped[0].reason
    assert "Enumerate()" in repr(small)


def test_control_variates_are_trained_first_and_the_table_says_so() -> None:
    given = ScoreFunction(1, baseline=MovingAverage(start=16.0))
    offset = lambda x: smooth(x) + 10  # noqa: E731
    untrained, trained = (
        compare(offset, bits(), [given], budget=2, replicates=512, train_steps=steps).rows[0] for steps in (0, 500)
    )
    assert (untrained.trained, trained.trained) == (0, 500)
    assert trained.variance < untrained.variance / 4
    assert float(given.baseline.average.detach()) == 16.0
    table = compare(offset, bits(), [given], budget=2, replicates=128, train_steps=7)
    assert "Trained for 7 steps on this problem first: ScoreFunction" in repr(table)


def test_context_and_batches_reach_the_baseline_as_always() -> None:
    network = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    other = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    estimators = [ScoreFunction(1, baseline=LearnedBaseline(n)) for n in (network, other)]
    context = torch.randn(5, 4)
    f = lambda x: smooth(x) + context.sum(-1)  # noqa: E731
    table = compare(f, bits(3, (5,)), estimators, budget=2, context=context, replicates=128, train_steps=3)
    assert len({row.label for row in table.rows}) == 2
    assert table.skipped == ()


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_batch(batch: tuple[int, ...]) -> None:
    table = compare(smooth, bits(3, batch), [ScoreFunction()], budget=4, replicates=512)
    assert table.skipped == ()
    assert not table.rows[0].biased


def test_f_always_gets_points_of_its_own_shape() -> None:
    shapes = set()

    def f(x: Tensor) -> Tensor:
        shapes.add(tuple(x.shape[1:]))
        return smooth(x)

    compare(f, bits(3, (2,)), [ScoreFunction()], budget=4, replicates=128)
    assert shapes == {(2, 3)}


def test_the_same_seed_gives_the_same_numbers_and_nothing_is_changed() -> None:
    dist = bits()
    network = nn.Linear(3, 1)
    before = torch.get_rng_state()
    f = lambda x: torch.nn.functional.dropout(network(x), 0.2).squeeze(-1)  # noqa: E731
    first, second = (compare(f, dist, [ScoreFunction()], budget=4, replicates=128) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.rows[0].variance == second.rows[0].variance
    assert "long run" in first.reference  # a random f cannot be enumerated
    assert (
        compare(f, dist, [ScoreFunction()], budget=4, replicates=128, seed=1).rows[0].variance != first.rows[0].variance
    )
    assert network.weight.grad is None
    assert dist.base_dist.logits.grad is None


def test_an_interruption_keeps_what_is_done() -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("measuring", 10):
            raise KeyboardInterrupt

    table = compare(smooth, bits(), [ScoreFunction()], budget=4, progress=interrupt)
    assert table.interrupted
    assert table.rows[0].replicates == 320
    assert table.rows[0].bias is not None
    assert "Interrupted" in repr(table)

    def at_once(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    nothing = compare(smooth, bits(), [ScoreFunction()], budget=4, progress=at_once)
    assert nothing.rows == ()
    assert nothing.skipped[0].reason == "not reached before the interruption"


def test_progress_counts_up() -> None:
    told = []
    compare(smooth, bits(), [ScoreFunction()], budget=4, replicates=128, progress=lambda *args: told.append(args))
    assert told[0] == ("preparing ScoreFunction", 0, 1)
    assert told[1:] == [("measuring", done, 32) for done in range(33)]


@pytest.fixture(scope="module")
def small() -> Comparison:
    return compare(smooth, bits(), [ScoreFunction(), Enumerate(), Pathwise()], budget=8, replicates=128, seed=3)


def test_json_lines(small: Comparison) -> None:
    lines = [json.loads(line) for line in small.to_json().splitlines()]
    assert [line["label"] for line in lines] == ["Enumerate()", "ScoreFunction(samples=8)", "Pathwise()"]
    assert {line["seed"] for line in lines} == {3}
    assert all(line["versions"]["torch"] == torch.__version__ for line in lines)
    assert lines[1]["evaluations"] == 8
    assert "continuous distribution" in lines[2]["skipped"]
    assert "Infinity" not in small.to_json()


def test_tables(small: Comparison) -> None:
    markdown = small.to_markdown().splitlines()
    assert [cell.strip() for cell in markdown[0].strip("|").split("|")] == list(COLUMNS)
    assert markdown[2].startswith("| 1 | Enumerate() | 8 |")
    plain = repr(small)
    assert plain.splitlines()[0].split()[:2] == ["rank", "estimator"]
    assert "Not compared: Pathwise(): Pathwise needs a continuous distribution" in plain
    assert small._repr_html_().count("<tr>") == 3
    assert "&lt; " in small._repr_html_()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"budget": 0}, "at least 1"), ({"replicates": 64}, "at least 128"), ({"train_steps": -1}, "0 or more")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare(smooth, bits(), [ScoreFunction()], **settings)


def test_what_is_biased_in_general_is_named_where_no_bias_was_seen() -> None:
    """For a linear f straight-through is right."""
    dist = Independent(Bernoulli(logits=torch.zeros(3, requires_grad=True)), 1)
    found = compare(lambda x: x.sum(-1), dist, [StraightThrough(), ScoreFunction()], budget=4, replicates=128)
    assert not any(row.biased for row in found.rows)
    assert "In brackets: biased in general, though no bias was seen here: StraightThrough(samples=4)." in found.notes()


def test_what_is_biased_in_general_has_no_rank_where_no_bias_was_seen() -> None:
    """For a quadratic f ReinMax has the least variance, and no bias that a long run could show."""
    dist = Independent(Bernoulli(logits=torch.full((3,), 0.4, requires_grad=True)), 1)
    given = [ReinMax(), ScoreFunction(), DisARM()]
    table = compare(lambda x: (x.sum(-1) - 0.3).square(), dist, given, budget=4, replicates=512)
    assert [row.rank for row in table.rows] == [1, 2, None]
    assert [row.rank_by_evaluations is None for row in table.rows] == [False, False, True]
    rows = {row.name: row for row in table.rows}
    least = min(table.rows, key=lambda row: row.variance_time)
    assert (least.name, least.biased, least.group) == ("ReinMax", False, "biased in general")
    assert rows["DisARM"].group == "unbiased"
    bias = {row.name: row.cells()[3] for row in table.rows}
    assert bias["ReinMax"].startswith("(< ")
    assert bias["DisARM"].startswith("< ")
    assert '"group": "biased in general"' in table.to_json()


def test_many_refusals_are_only_named(small: Comparison) -> None:
    refused = tuple(Skipped(name, "It needs more.", refused=True) for name in "ABCD")
    notes = replace(small, skipped=refused).notes()
    assert "Do not take this distribution: A, B, C, D." in notes
    assert not any("It needs more." in note for note in notes)
