"""`recommend` picks what is measured to be best, on problems that it was not tuned on; and says why."""

import dataclasses
import html
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)
from typer.testing import CliRunner, Result

import sampleprop as sp
from sampleprop.diagnostics import Check, Finding, Recommendation
from sampleprop.diagnostics.recommending.candidates import budgets, code, label_candidates, list_candidates
from sampleprop.diagnostics.recommending.race import TRAINING, Criterion, Race, Score
from sampleprop.lab.command.app import app

WITHIN = 1.1  # of the best
FULL = os.environ.get("SAMPLEPROP_HELD_OUT") == "all"  # else three of the problems, with less training
TRAIN_STEPS = 200 if FULL else 20
LONGEST = 16384 if FULL else 4096
REPLICATES = 8192 if FULL else 2048


class HeldOut(NamedTuple):
    f: Callable[[Tensor], Tensor]
    dist: Distribution
    budget: int


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pairs() -> HeldOut:
    """Eight coupled bits in a batch of two: xᵀ J x."""
    couplings = normal(1, 8, 8) / 3
    dist = Independent(Bernoulli(logits=normal(2, 2, 8).requires_grad_()), 1)
    return HeldOut(lambda x: ((x @ couplings) * x).sum(-1), dist, 12)


def knapsack() -> HeldOut:
    """Thirty bits, too many to enumerate, and a jump: what is too heavy is worth nothing."""
    weights = uniform(3, 30)
    dist = Independent(Bernoulli(logits=(normal(4, 30) / 2).requires_grad_()), 1)

    def f(x: Tensor) -> Tensor:
        total = (x * weights).sum(-1)
        return torch.where(total > 9, 0.0, -total)

    return HeldOut(f, dist, 8)


def network() -> HeldOut:
    """Six bits in a batch of four, into a small network."""
    first, second = normal(5, 6, 16), normal(6, 16) / 2
    dist = Independent(Bernoulli(logits=normal(7, 4, 6).requires_grad_()), 1)
    return HeldOut(lambda x: ((x - 0.5) @ first).tanh() @ second, dist, 5)


def one_hots() -> HeldOut:
    """Four one-hot variables of three classes, a sine times a line."""
    a, b = normal(8, 4, 3), normal(9, 4, 3)
    dist = Independent(OneHotCategorical(logits=normal(10, 4, 3).requires_grad_()), 1)
    return HeldOut(lambda x: (x * a).sum((-2, -1)).sin() * (x * b).sum((-2, -1)), dist, 20)


def lookup() -> HeldOut:
    """One variable of fifty values, in a batch of two, and a table for f."""
    values = normal(11, 50).exp()
    return HeldOut(lambda x: values[x], Categorical(logits=(2 * normal(12, 2, 50)).requires_grad_()), 8)


def waves() -> HeldOut:
    """Twelve normal variables, by mean and scale: a sine and a square."""
    a = normal(13, 12) / 2
    dist = Independent(Normal(normal(14, 12).requires_grad_(), (0.3 + uniform(15, 12)).requires_grad_()), 1)
    return HeldOut(lambda x: (x * a).sum(-1).sin() + 0.1 * x.square().sum(-1), dist, 4)


def step() -> HeldOut:
    """Three normal variables and a jump on top of a slope."""
    a = normal(16, 3)
    dist = Independent(Normal(normal(17, 3).requires_grad_(), torch.ones(3)), 1)
    return HeldOut(lambda x: ((x * a).sum(-1) > 0.3).to(x.dtype) + 0.1 * x.sum(-1), dist, 10)


def counts() -> HeldOut:
    """Three Poisson counts, a hyperbola and a square."""
    dist = Independent(Poisson((0.5 + 4 * uniform(18, 3)).requires_grad_()), 1)
    return HeldOut(lambda x: 1 / (1 + x).prod(-1) + 0.05 * (x.sum(-1) - 6).square(), dist, 12)


def lifetimes() -> HeldOut:
    """Three gamma variables by their shapes, a logarithm and a root."""
    dist = Independent(Gamma((1 + 2 * uniform(19, 3)).requires_grad_(), torch.ones(3)), 1)
    return HeldOut(lambda x: (x.log().sum(-1) - 1).square() + x.prod(-1).sqrt(), dist, 6)


HELD_OUT = (pairs, knapsack, network, one_hots, lookup, waves, step, counts, lifetimes)
CASES = [(make, False) for make in HELD_OUT] + [(make, True) for make in (network, one_hots, counts)]
QUICK = [(lookup, False), (step, False), (counts, True)]


def truth(problem: HeldOut, allow_biased: bool, train_steps: int) -> dict[str, float]:
    """All candidates by a long run of other noise: variance, or the squared error of what is biased.

    What has to be trained counts `TRAINING` times, as the criterion has it. A short run comes first, and the long one
    is for those less than twice as bad as the best.
    """
    field = label_candidates(list_candidates(problem.dist, allow_biased), problem.dist, problem.budget)
    found: dict[str, float] = {}
    for seed, replicates in ((10**6, 512), (10**7, LONGEST)):
        table = sp.compare(
            problem.f,
            problem.dist,
            [candidate.estimator for candidate in field.values()],
            budget=problem.budget,
            replicates=replicates,
            seed=seed,
            train_steps=train_steps,
        )
        right = [row for row in table.rows if allow_biased or not row.biased]
        found |= {
            row.label: (TRAINING if row.trained else 1.0) * (row.error if row.biased else row.variance) for row in right
        }
        least = min(found[row.label] for row in right)
        field = {row.label: field[row.label] for row in right if found[row.label] <= 2 * least}
    return {label: found[label] for label in field}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "allow_biased"),
    CASES if FULL else QUICK,
    ids=lambda x: x.__name__ if callable(x) else ("unbiased", "biased")[x],
)
def test_the_choice_is_within_a_tenth_of_the_best(
    make: Callable[[], HeldOut], allow_biased: bool, record_property: Callable[[str, object], None]
) -> None:
    problem = make()
    chosen = sp.recommend(
        problem.f,
        problem.dist,
        budget=problem.budget,
        allow_biased=allow_biased,
        replicates=REPLICATES,
        train_steps=TRAIN_STEPS,
    )
    measured = truth(problem, allow_biased, TRAIN_STEPS)
    best = min(measured, key=lambda label: measured[label])
    ratio = measured[chosen.row.label] / measured[best]
    record_property("ratio", ratio)
    print(
        f"{make.__name__}, biased {allow_biased}: {chosen.row.label}, best {best}, ratio {ratio:.3f}, ties "
        f"{chosen.ties}"
    )
    assert ratio <= WITHIN, f"{chosen!r}\n{best} has {measured[best]}"


def bits(size: int = 3) -> Distribution:
    return Independent(Bernoulli(logits=torch.full((size,), 0.5, requires_grad=True)), 1)


def smooth(x: Tensor) -> Tensor:
    return (x.sum(-1) - 1.3).square() + x.prod(-1)


class Shrunk(sp.ScoreFunction):
    """A tenth of the gradient: little variance, and much bias."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        value = super().estimate(*args, **kwargs)
        return 0.1 * value + 0.9 * value.detach()


class Demanding(sp.ScoreFunction):
    """As the score function, and asks more of f for nothing."""

    needs = "differentiable"


class Doubled(sp.ScoreFunction):
    """As the score function, at twice the evaluations."""

    def calls(self, variables: Any) -> tuple[int, int]:
        return 2 * self.draws, 0


class Slow(sp.Enumerate):
    """As the sum over all states, and slower."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        time.sleep(0.002)
        return super().estimate(*args, **kwargs)


def recommended(*estimators: sp.Estimator[Any, Any], f: Any = smooth, **arguments: Any) -> Recommendation:
    """On three bits, with short rounds."""
    return sp.recommend(f, arguments.pop("dist", bits()), estimators, **{"budget": 6, "replicates": 512} | arguments)


def test_the_exact_one_is_taken_if_the_budget_allows_it() -> None:
    found = recommended(sp.ScoreFunction(), sp.Enumerate(), budget=8)
    assert (found.code, found.row.evaluations) == ("estimator = sp.Enumerate()", 8)
    assert (found.ties, found.clear) == ((), True)
    found = recommended(sp.ScoreFunction(), sp.Enumerate(), budget=7)
    assert found.code == "estimator = sp.ScoreFunction(samples=7)"
    assert found.estimator.evaluations(bits())[0] == 7
    assert [skipped.label for skipped in found.comparison.skipped] == ["Enumerate()"]


def test_the_exact_gradient_of_a_structure_is_named() -> None:
    subset = sp.KSubset(normal(3, 4).requires_grad_(), 2)
    weights = torch.tensor([1.0, 2.0, 4.0, 7.0])
    found = recommended(sp.ScoreFunction(), f=lambda x: (x @ weights).square(), dist=subset, budget=4)
    assert any(reason.startswith("The exact gradient takes 6 evaluations") for reason in found.reasons), found.reasons


def test_no_more_samples_than_help() -> None:
    """The path through a line has no variance, whatever the number of samples."""
    q = Normal(torch.zeros(3, requires_grad=True), 1.0)
    line = recommended(sp.Pathwise(), sp.ScoreFunction(), f=lambda x: 2 * x, dist=q, budget=16)
    assert (line.code, line.row.evaluations, line.estimator.label) == ("estimator = sp.Pathwise()", 1, "Pathwise()")
    found = recommended(sp.Pathwise(), f=torch.square, dist=q, budget=16)
    assert found.row.evaluations == 16
    assert "With fewer samples the variance is" in found.reasons[2]
    assert "with 8 evaluations" in found.reasons[2]


def test_between_equals_the_one_that_asks_less_is_taken() -> None:
    # Their variances differ by noise only, of 1 %: five standard errors are within a tie.
    found = recommended(Demanding(), sp.ScoreFunction(), replicates=32768)
    assert (found.row.name, found.ties) == ("ScoreFunction", ("Demanding(samples=6)",))
    assert any("As good within 5 %: Demanding(samples=6)." in reason for reason in found.reasons)
    assert recommended(Doubled(), sp.ScoreFunction()).row.name == "ScoreFunction"
    # Both sum over all states; one has the second derivative too.
    found = recommended(sp.RaoBlackwellized(), Slow(), budget=8)
    assert (found.row.name, found.ties) == ("Slow", ("RaoBlackwellized(samples=8)",))


def test_a_bias_that_is_seen_is_left_out_whatever_the_estimator_says_of_itself() -> None:
    found = recommended(Shrunk(), sp.ScoreFunction(), replicates=2048)
    assert found.row.name == "ScoreFunction"
    assert "a bias of 9" in found.left_out["Shrunk(samples=6)"]
    assert any(reason.startswith("Left out: Shrunk(samples=6): a bias of") for reason in found.reasons)


def test_a_small_jump_is_found_by_check_and_all_paths_over_it_are_left_out() -> None:
    """0.02 is too little for the bias to be seen by a long run of the score function; the path has a fraction of the
    variance."""
    q = Normal(torch.zeros(2, requires_grad=True), torch.ones(2))
    arguments: dict[str, Any] = {"dist": Independent(q, 1), "budget": 4}
    line = lambda x: x.sum(-1) + 0.02 * x.square().sum(-1)  # noqa: E731
    assert recommended(sp.Pathwise(), sp.ScoreFunction(), f=line, **arguments).row.name == "Pathwise"
    found = recommended(sp.Pathwise(), sp.ScoreFunction(), f=lambda x: line(x) + 0.02 * (x > 0.5).sum(-1), **arguments)
    assert found.row.name == "ScoreFunction"
    assert found.left_out["Pathwise(samples=4)"].startswith("f jumps by 0.02")


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (lambda x: x.sum(-1) - x.sum(-1).mean(), "f mixes rows"),
        (lambda x: 0 * x.sum(-1) + 2, "f ignores x"),
    ],
    ids=["mixes rows", "ignores x"],
)
def test_an_f_for_which_none_is_right_is_refused(f: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recommended(sp.ScoreFunction(), f=f)


def test_bias_counts_for_more_the_more_is_averaged() -> None:
    problem = network()
    given = (sp.StraightThrough(), sp.ScoreFunction())
    shared: dict[str, Any] = {"f": problem.f, "dist": problem.dist, "budget": 8, "allow_biased": True}
    one = recommended(*given, **shared, replicates=2048)
    assert one.row.name == "StraightThrough"
    sentence = next(reason for reason in one.reasons if reason.startswith("Where more than"))
    turn = int(sentence.split()[3])
    assert "ScoreFunction(samples=8) has the smaller error" in sentence
    assert recommended(*given, **shared, replicates=2048, averaged=4 * turn).row.name == "ScoreFunction"
    assert recommended(*given, **shared, replicates=2048, averaged=max(1, turn // 4)).row.name == "StraightThrough"


def test_the_criterion() -> None:
    rows = {row.name: row for row in sp.compare(smooth, bits(), [sp.ScoreFunction(), Shrunk()], budget=6).rows}
    plain, shrunk = rows["ScoreFunction"], rows["Shrunk"]
    assert Criterion(1, False).score(plain) == (plain.variance, plain.variance_error)
    assert Criterion(4, True).score(plain).value == plain.variance / 4
    assert Criterion(1, True).score(shrunk).value == pytest.approx(shrunk.error)
    assert Criterion(10**9, True).score(shrunk).value == pytest.approx(shrunk.error - shrunk.variance)
    assert Criterion(1, False).refusal(plain) is None
    assert Criterion(1, True).refusal(shrunk) is None
    assert "a bias of 9" in str(Criterion(1, False).refusal(shrunk))
    assert Score(1.0, 0.1).beats(Score(2.0, 0.2), 0.0)
    assert not Score(1.0, 0.1).beats(Score(1.8, 0.2), 0.0)  # 3.6 standard errors
    assert not Score(1.0, 0.1).beats(Score(2.0, 0.2), 0.2)
    assert Score(1.0, 0.1).ties(Score(1.04, 0.1), 0.0)
    assert not Score(1.0, 0.1).ties(Score(1.06, 0.1), 0.0)


def six() -> Distribution:
    """The six fair bits of the README."""
    return Independent(Bernoulli(logits=torch.zeros(6, requires_grad=True)), 1)


def readme(x: Tensor) -> Tensor:
    return (x.sum(-1) - 2.5).square() + x.prod(-1)


def test_six_bits_without_a_limit_are_enumerated() -> None:
    given = (sp.RODEO(), sp.DisARM(), sp.Enumerate())
    arguments: dict[str, Any] = {"f": readme, "dist": six(), "budget": None, "train_steps": 20}
    found = recommended(*given, **arguments)
    assert found.code == "estimator = sp.Enumerate()"
    assert found.row.evaluations == 64
    assert found.reasons[0].startswith("One estimate evaluates f 64 times, once at each joint state, and takes ")
    found = recommended(*given[:2], **arguments)
    assert found.row.name == "DisARM"
    assert (
        "The exact gradient takes 64 evaluations, 4 times as many, and has no noise: sp.Enumerate()." in found.reasons
    )


def test_what_must_be_trained_has_to_be_clearly_better() -> None:
    """RODEO has less variance than DisARM on six bits, and a network to train."""
    found = recommended(sp.RODEO(), sp.DisARM(), f=readme, dist=six(), budget=16, train_steps=100, replicates=2048)
    assert found.row.label == "DisARM(samples=16)"
    rows = {row.name: row for row in found.comparison.rows}
    assert rows["RODEO"].variance < rows["DisARM"].variance / 1.1
    said = next(reason for reason in found.reasons if reason.startswith("Not taken: RODEO(samples=8)"))
    assert said.endswith("has to be trained.")


def test_training_and_time_weigh() -> None:
    row = sp.compare(smooth, bits(), [sp.ScoreFunction()], budget=6, replicates=128).rows[0]
    at = lambda milliseconds, trained=0: dataclasses.replace(row, milliseconds=milliseconds, trained=trained)  # noqa: E731
    assert Criterion(1, False).weight(at(100.0), 1.0) == 1.0  # the evaluations are the limit
    free = Criterion(1, False, timed=True)
    assert free.weight(at(2.0), 1.0) == 1.0
    assert free.weight(at(6.0), 1.0) == 3.0
    assert free.weight(at(6.0, trained=9), 1.0) == pytest.approx(3 * TRAINING)
    race = Race(None, free, 0.0)
    race.rows = {"slow": at(6.0), "fast": at(1.0)}
    assert race.fastest == 1.0
    assert race.score("slow") == (3 * row.variance, 3 * row.variance_error)
    assert race.order(["slow", "fast"]) == ["fast", "slow"]


def test_as_many_samples_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock by which an evaluation takes a millisecond, and one of `Doubled` takes two."""
    asked = lambda problem, estimator, generator: float(estimator.evaluations(problem.dist)[0])  # noqa: E731
    monkeypatch.setattr("sampleprop.diagnostics.recommending.candidates._milliseconds", asked)
    found = recommended(sp.ScoreFunction(), Doubled(), sp.Enumerate(), milliseconds=7, budget=None)
    assert found.code == "estimator = sp.ScoreFunction(samples=6)"
    assert "7 ms allowed" in found.reasons[0]
    assert {row.label for row in found.comparison.rows} == {"ScoreFunction(samples=6)", "Doubled(samples=3)"}
    assert [(s.label, s.reason) for s in found.comparison.skipped] == [
        ("Enumerate()", "one estimate takes 8 ms, of 7 ms allowed")
    ]
    found = recommended(sp.ScoreFunction(), milliseconds=7, budget=3)
    assert found.row.evaluations == 3
    with pytest.raises(ValueError, match="takes 2 ms, of 1 ms allowed"):
        recommended(Doubled(samples=1, baseline=sp.Constant()), milliseconds=1)


def test_the_time_is_that_of_one_estimate() -> None:
    found = recommended(sp.ScoreFunction(), milliseconds=60_000, budget=5)
    assert found.row.evaluations == 5
    with pytest.raises(ValueError, match="ms allowed"):
        recommended(sp.ScoreFunction(), milliseconds=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": 0}, "at least 1"),
        ({"averaged": 0}, "at least 1"),
        ({"milliseconds": -1.0}, "positive number of milliseconds"),
        ({"replicates": 10}, "at least 128"),
        ({"estimators": [sp.StraightThrough()]}, "without bias; got StraightThrough"),
        ({"estimators": [sp.Pathwise()]}, r"fits 6 evaluations, and is right; got none\. Pathwise"),
        ({"estimators": []}, "No estimator was given"),
        ({"estimators": [sp.RELAX(critic=nn.Linear(3, 1)), sp.RELAX(critic=nn.Linear(3, 1))]}, "told apart"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sp.recommend(smooth, bits(), **{"estimators": [sp.ScoreFunction()], "budget": 6} | arguments)


def test_an_interruption_keeps_what_is_known() -> None:
    def impatient(stage: str, done: int, total: int) -> None:
        if stage.endswith(f"(round {last})"):
            raise KeyboardInterrupt

    last = 2
    found = recommended(sp.ScoreFunction(), Shrunk(), progress=impatient)
    assert found.row.label == "ScoreFunction(samples=6)"
    assert not found.clear
    assert found.reasons[-1].startswith("Interrupted")
    last = 1
    with pytest.raises(KeyboardInterrupt):
        recommended(sp.ScoreFunction(), progress=impatient)


def test_nothing_given_is_changed() -> None:
    dist, estimator = bits(), sp.REBAR()
    before, state = torch.get_rng_state(), {name: p.clone() for name, p in estimator.named_parameters()}
    found = recommended(estimator, dist=dist, train_steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert dist.base_dist.logits.grad is None
    assert all(torch.equal(p, state[name]) and p.grad is None for name, p in estimator.named_parameters())
    assert found.row.trained == 3
    assert found.estimator is not estimator
    assert found.estimator.label == "REBAR(samples=2)"  # untrained
    assert any("estimator.parameters()" in reason for reason in found.reasons)


def test_an_average_that_moves_by_itself_moves_first_and_no_optimizer_is_asked_for() -> None:
    given = sp.ScoreFunction(1, baseline=sp.MovingAverage())
    offset = lambda x: smooth(x) + 20  # noqa: E731
    still, moved = (recommended(given, f=offset, budget=1, train_steps=steps) for steps in (0, 100))
    assert (still.row.trained, moved.row.trained) == (0, 100)
    assert moved.row.variance < still.row.variance / 20
    assert [float(e.baseline.average) for e in (given, still.estimator, moved.estimator)] == [0.0, 0.0, 0.0]
    assert any("moves by itself" in reason for reason in moved.reasons)
    assert not any("estimator.parameters()" in reason for reason in moved.reasons)


@pytest.mark.parametrize("make", [pairs, one_hots, lookup, waves, counts], ids=lambda make: make.__name__)
def test_every_candidate_fits_and_can_be_pasted(make: Callable[[], HeldOut]) -> None:
    dist = make().dist
    found = label_candidates(list_candidates(dist, True), dist, 12)
    fitting = {label: e for label, candidate in found.items() if (e := candidate.configured(dist)) is not None}
    assert len(fitting) > 8
    for label, estimator in fitting.items():
        assert label == estimator.label == eval(code(estimator), {"sp": sp}).label
        assert estimator.evaluations(dist)[0] <= 12
    names = {candidate.estimator.name for candidate in found.values()}
    wanted = {kind.__name__ for kind in sp.REGISTER if kind().objective == "mean" and not kind().refusal(dist)}
    assert names == wanted
    assert all(estimator.unbiased for estimator in list_candidates(dist, False))


def test_the_budgets_grow_by_a_half_at_most() -> None:
    assert list(budgets(20)) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert list(budgets(1)) == [1]


def test_the_forms_of_a_recommendation() -> None:
    found = recommended(sp.ScoreFunction(), sp.Enumerate(), budget=8)
    content = json.loads(found.to_json())
    assert (content["estimator"], content["code"]) == ("Enumerate()", "estimator = sp.Enumerate()")
    assert {line["label"] for line in content["measured"]} == {"Enumerate()", "ScoreFunction(samples=8)"}
    assert content["reasons"] == list(found.reasons)
    assert found.to_markdown().startswith("```python\nestimator = sp.Enumerate()\n```\n\n- One estimate")
    assert "| 1 | Enumerate() |" in found.to_markdown()
    assert repr(found).splitlines()[0] == "estimator = sp.Enumerate()"
    assert len(repr(found).splitlines()) == 1 + len(found.reasons)


SHOWN = {
    "recommendation": lambda evil: _evil(recommended(sp.ScoreFunction()), reasons=(evil,)),
    "comparison": lambda evil: _evil(sp.compare(smooth, bits(), [sp.ScoreFunction()]), problem=evil),
    "row": lambda evil: _evil(sp.compare(smooth, bits(), [sp.ScoreFunction()]).rows[0], label=evil),
    "finding": lambda evil: Finding("f", "error", evil),
    "check": lambda evil: Check(evil, (Finding("f", "error", evil),), (evil,), (evil,), None),
    "estimator": lambda evil: _named(evil)(),
}


def _evil(of: Any, **fields: Any) -> Any:
    return dataclasses.replace(of, **fields)


def _named(name: str) -> type[sp.Estimator[Any, Any]]:
    return type(name, (sp.ScoreFunction,), {})


@pytest.mark.parametrize("make", SHOWN.values(), ids=SHOWN.keys())
def test_the_tables_in_a_notebook_escape_what_they_show(make: Callable[[str], Any]) -> None:
    evil = '<script>alert("x")</script> & more'
    shown = make(evil)._repr_html_()
    assert "<script" not in shown
    assert html.escape(evil) in shown


@pytest.mark.parametrize("kind", sp.REGISTER, ids=lambda kind: kind.__name__)
def test_every_estimator_shows_its_facts(kind: type[sp.Estimator[Any, Any]]) -> None:
    shown = kind()._repr_html_()
    assert f"<caption>{kind.__name__}(" in shown
    assert f"<th>unbiased</th><td>{'yes' if kind().unbiased else 'no'}</td>" in shown
    assert html.escape(kind().source["title"]) in shown


MODEL = """
import torch
from torch.distributions import Bernoulli, Independent


def problem():
    logits = torch.full((3,), 0.5, requires_grad=True)
    return lambda x: (x.sum(-1) - 1.3).square() + x.prod(-1), Independent(Bernoulli(logits=logits), 1)


def mixed():
    f, q = problem()
    return lambda x: f(x) - f(x).mean(), q
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """The command on a problem of the file, with a register of four."""
    monkeypatch.setattr(
        "sampleprop.diagnostics.recommending.candidates.REGISTER",
        (sp.ScoreFunction, sp.Enumerate, sp.Pathwise, sp.StraightThrough),
    )
    (tmp_path / "my_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, problem: str = "my_model.py:problem") -> Result:
        short = ("--replicates", "256", "--train-steps", "2")
        return CliRunner().invoke(app, ["recommend", problem, *short, *arguments])

    return run


def test_the_command_says_what_to_take(command: Callable[..., Result]) -> None:
    result = command()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("estimator = sp.Enumerate()\n  - One estimate evaluates f 8 times, of 16 allowed")
    assert "rank" not in result.stdout
    assert "rank  estimator" in command("--table").stdout


def test_the_command_writes_json_and_markdown(command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(command("--json", "--budget", "6", "--seed", "3").stdout)
    assert content["code"].startswith("estimator = sp.ScoreFunction(samples=6")
    assert (content["budget"], content["seed"], content["allow_biased"]) == (6, 3, False)
    assert not any(line["label"].startswith("StraightThrough") for line in content["measured"])
    monkeypatch.setattr(
        sys.modules["sampleprop.diagnostics.recommending.recommend"], "MOST", 24
    )  # 1024 would take seconds
    content = json.loads(command("--json", "--allow-biased", "--averaged", "7", "--milliseconds", "60000").stdout)
    assert any(line["label"].startswith("StraightThrough") for line in content["measured"])
    assert (content["budget"], content["averaged"], content["milliseconds"]) == (24, 7, 60000)
    assert command("--markdown").stdout.startswith("```python\nestimator = sp.Enumerate()")


@pytest.mark.parametrize(
    ("arguments", "problem", "said"),
    [
        (("--json", "--markdown"), "my_model.py:problem", "two forms of the same"),
        ((), "nothing", "FILE.py:FUNCTION"),
        ((), "my_model.py:mixed", "f mixes rows"),
        (("--milliseconds", "-1"), "my_model.py:problem", "positive number"),
    ],
)
def test_the_command_refuses(command: Callable[..., Result], arguments: Sequence[str], problem: str, said: str) -> None:
    result = command(*arguments, problem=problem)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
