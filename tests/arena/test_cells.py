"""What one piece of the arena measures: the same numbers whatever is measured beside it."""

import dataclasses
import math

import pytest
import torch

from sampleprop.lab.arena import cells
from sampleprop.lab.arena.cells import Cell, Key, Settings, peak_memory
from sampleprop.lab.measure.runs import Piece

TIMED = {"milliseconds", "loo_milliseconds"}


def measure(*keys: Key, train_steps: int = 3) -> dict[Key, Cell]:
    (piece,) = {Piece(key.problem, key.seed) for key in keys}
    found = Settings(frozenset(keys), 128, train_steps).measure(piece)
    assert found.finished
    return {cell.key: cell for cell in found.cells}


def numbers(cell: Cell) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(cell).items() if name not in TIMED}


@pytest.mark.parametrize("problem", ["categorical", "counts", "digital-option", "layers"])
def test_the_numbers_of_a_cell_do_not_depend_on_its_company(problem: str) -> None:
    names = {"counts": "MeasureValued", "digital-option": "LAX"}
    mine = Key(names.get(problem, "REBAR"), problem, 1, 16, problem != "counts")
    alone = measure(mine)[mine]
    other = [
        Key(name, problem, 1, budget, False) for name in ("ScoreFunction", "MuProp", "GOGradient") for budget in (4, 16)
    ]
    beside = measure(mine, *other)
    assert not alone.reason
    assert numbers(beside[mine]) == numbers(alone)
    yardstick = beside[Key("ScoreFunction", problem, 1, 16, False)]
    assert (alone.loo_variance, alone.loo_evaluations) == (yardstick.variance, yardstick.evaluations)
    assert all(cell.reason or cell.evaluations <= cell.key.budget for cell in beside.values())


def test_seeds_and_training_make_a_difference() -> None:
    keys = [Key("REBAR", "categorical", seed, 16, trained) for seed in (0, 1) for trained in (False, True)]
    found = [measure(key)[key].variance for key in keys]
    assert len(set(found)) == 4


def test_what_cannot_be_measured_has_a_reason() -> None:
    keys = [Key(name, "counts", 0, 4, False) for name in ("DisARM", "MeasureValued", "CoupledReplay")]
    found = measure(*keys)
    reasons = [found[key].reason for key in keys]
    assert "needs Bernoulli" in reasons[0]
    assert "does not fit the budget of 4 evaluations" in reasons[1]
    assert reasons[2] == "CoupledReplay(1) takes programs only"


def test_a_bias_is_seen_with_what_would_have_been_seen() -> None:
    biased, right = (Key(name, "one-bit", 0, 16, False) for name in ("StraightThrough", "DisARM"))
    found = measure(biased, right)
    assert found[biased].bias_z is not None
    assert found[biased].bias_z > 4
    assert found[right].bias_z is not None
    assert found[right].bias_z < 4
    assert found[right].bias_visible is not None
    assert 0 < found[right].bias_visible < 1


@pytest.mark.parametrize("problem", ["one-bit", "layers"])
def test_a_suspected_bias_is_measured_again_with_many_more_estimates(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key("DisARM", problem, 0, 16, False)
    first = measure(key)[key]
    monkeypatch.setattr(cells, "SUSPECT", -math.inf)
    again = measure(key)[key]
    assert again.variance == first.variance
    assert first.bias_visible is not None
    assert again.bias_visible is not None
    assert 3 < first.bias_visible / again.bias_visible < 5.5  # √16


def test_a_program_counts_the_runs_of_its_last_cost() -> None:
    keys = [
        Key(name, "layers", 0, 16, False) for name in ("ScoreFunction", "CoupledReplay", "DisARM", "LocalExpectation")
    ]
    found = measure(*keys)
    assert [found[key].evaluations for key in keys[:3]] == [16, 2, 16]
    assert "does not fit" in found[keys[3]].reason  # 5 runs for each of 5


def test_memory_is_the_most_at_once() -> None:
    with peak_memory() as memory:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a
        c = b.view(10, 100) + 1  # a view is no memory of its own
        del b, c
        torch.zeros(500, dtype=torch.float64)
    assert memory.megabytes == pytest.approx(16e-3)


def test_the_memory_of_an_estimate_grows_with_its_samples() -> None:
    keys = [Key("ScoreFunction", "double-cv", 0, budget, False) for budget in (16, 64)]
    few, many = (measure(key)[key].megabytes for key in keys)
    assert 3 < many / few < 5


def test_training_is_what_the_settings_say() -> None:
    key = Key("RELAX(use_f=False)", "one-bit", 0, 16, True)
    few, more = (measure(key, train_steps=steps)[key].variance for steps in (1, 60))
    assert more < few
    assert math.isfinite(more)
