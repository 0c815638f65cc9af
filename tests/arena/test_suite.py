"""The problems of the arena: what they are, and the exact variances of the published toys."""

import dataclasses
import math

import pytest
import torch

from sampleprop.lab.arena import entrants
from sampleprop.lab.arena.cells import Key, Settings
from sampleprop.lab.arena.problems import PROBABILITIES, PROBLEMS, SIMPLE_SEEDS, SUITE, Model, exact_of_bits
from sampleprop.lab.measure.problems import Problem
from sampleprop.lab.measure.runs import Piece

UNTRAINED = [name for name, entry in PROBLEMS.items() if entry.family not in ("bits", "images", "programs")]
# Of seed 0. When one of them moves, it is another suite: raise SUITE, and measure all files again.
LENGTHS = {
    "relax-45": 0.025,
    "relax-499": 0.0005,
    "one-bit": 0.1 * math.sqrt(sum((p * (1 - p)) ** 2 for p in PROBABILITIES)),
    "simple": math.sqrt(len(SIMPLE_SEEDS)),
    "double-cv": 0.001 / 200 / 2 * math.sqrt(200),
}


def measured(name: str, entrant: str, budget: int, replicates: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PROBLEMS, name, dataclasses.replace(PROBLEMS[name], replicates=replicates))
    key = Key(entrant, name, 0, budget, False)
    (cell,) = Settings(frozenset([key]), None, 0).measure(Piece(name, 0)).cells
    assert not cell.reason
    return cell


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "entrant", "budget", "replicates"),
    [
        *((name, entrant, budget, 2**18) for name, budget in (("relax-45", 2), ("relax-499", 4), ("one-bit", 16))
          for entrant in ("ScoreFunction", "ScoreFunction(baseline=Constant(0))", "ARM", "DisARM")),
        ("double-cv", "ScoreFunction", 2, 2**16),
        ("double-cv", "DisARM", 2, 2**16),
        ("simple", "ScoreFunction", 2, 2**15),
    ],
)  # fmt: skip
def test_the_exact_variances_of_the_published_toys_are_met_within_3_percent(
    name: str, entrant: str, budget: int, replicates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 % are five standard errors or more: a false alarm once in two million."""
    cell = measured(name, entrant, budget, replicates, monkeypatch)
    exact = PROBLEMS[name].exact(budget)[cell.label]
    if exact == 0:
        assert cell.variance < 1e-20
        return
    assert 5 * cell.variance_error < 0.03 * exact
    assert cell.variance == pytest.approx(exact, rel=0.03)


def test_the_score_function_has_the_log_variances_that_are_known_of_the_toys() -> None:
    for t, known in ((0.45, -4.139), (0.499, -4.159)):
        both = exact_of_bits((0.5,), t, 2)["ScoreFunction(baseline=Constant(0))"]
        assert math.log(2 * both) == pytest.approx(known, abs=5e-4)  # of one sample


def test_leave_one_out_on_the_toy_of_simple_is_that_of_all_pairs_of_subsets() -> None:
    problem = PROBLEMS["simple"].make(0)
    assert isinstance(problem, Problem)
    states = problem.dist.enumerate_support()  # [252, seeds, items]
    probs = problem.dist.log_prob(states).exp().detach()  # [252, seeds]
    costs, scores = problem.f(states), states - (probs[..., None] * states).sum(0)
    variances = []
    for seed in range(len(SIMPLE_SEEDS)):
        p, f, s = probs[:, seed], costs[:, seed], scores[:, seed]
        found = 0.5 * (f[:, None] - f)[..., None] * (s[:, None] - s)  # [252, 252, items]
        weight = (p[:, None] * p)[..., None]
        mean = (weight * found).sum((0, 1))
        assert mean.norm() == pytest.approx(1.0, rel=1e-9)
        variances.append(float((weight * (found - mean).square()).sum()))
    exact = PROBLEMS["simple"].exact(2)["ScoreFunction()"]
    assert sum(variances) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_seed_is_one_instance(name: str) -> None:
    first, again = (PROBLEMS[name].make(3) for _ in range(2))
    assert isinstance(first, Problem)
    assert isinstance(again, Problem)
    points = first.dist.sample((4,))
    assert torch.equal(first.f(points), again.f(points))


@pytest.mark.parametrize("name", LENGTHS)
def test_the_toys_are_those_of_this_suite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SUITE == 1
    cell = measured(name, "ScoreFunction", PROBLEMS[name].budgets[0], 128, monkeypatch)
    assert cell.gradient == pytest.approx(LENGTHS[name], rel=1e-4)


def test_the_two_layers_are_a_program_of_two_sites() -> None:
    model = PROBLEMS["layers"].make(0)
    assert isinstance(model, Model)
    _, drawn = model.run.sample(*model.args)
    assert len(drawn) == 2


def test_every_problem_has_three_budgets_in_ascending_order() -> None:
    assert all(len(set(entry.budgets)) == 3 == len(entry.budgets) for entry in PROBLEMS.values())
    assert all(sorted(entry.budgets) == list(entry.budgets) for entry in PROBLEMS.values())


def test_every_entrant_takes_a_problem_but_those_of_a_solver() -> None:
    problems = [entry.make(0) for entry in PROBLEMS.values() if entry.family not in ("bits", "images")]
    dists = [problem.dist for problem in problems if isinstance(problem, Problem)]
    idle = {
        name
        for name in entrants.known()
        if name != "CoupledReplay" and all(entrants.make(name).refusal(dist) is not None for dist in dists)
    }
    assert idle == {"PerturbedScore", "IMLE"}
