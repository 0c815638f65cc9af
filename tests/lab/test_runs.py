"""Several problems and seeds in one run: what is kept, what is measured again, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from lab.running import run
from sampleprop import diagnostics
from sampleprop.diagnostics.comparing.row import Row, Skipped
from sampleprop.diagnostics.comparing.trajectory import Checkpoint
from sampleprop.estimators.score.score_function import ScoreFunction
from sampleprop.lab.measure import results, runs
from sampleprop.lab.measure.mistakes import INTERRUPTED
from sampleprop.lab.measure.runs import Piece
from sampleprop.lab.measure.runs import Result as Measured

QUICK = ("--replicates", "128", "--train-steps", "0", "--budgets", "none", "--estimators", "ScoreFunction,Pathwise")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """The pieces that are really measured."""
    done: list[Piece] = []
    measure = runs.measure

    def counted(piece: Piece, *arguments: Any, **keywords: Any) -> Measured:
        done.append(piece)
        return measure(piece, *arguments, **keywords)

    monkeypatch.setattr(runs, "measure", counted)
    return done


def compare(out: Path, *arguments: object) -> Result:
    return run("compare", *arguments, *QUICK, "--out", out)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_each_problem_with_each_seed(tmp_path: Path, measured: list[Piece]) -> None:
    result = compare(tmp_path, "toy", "normal", "--seeds", "2", "--seed", 5)
    assert result.exit_code == 0, result.output
    assert measured == [("toy", 5), ("toy", 6), ("normal", 5), ("normal", 6)]
    assert [title in result.stdout for title in ("Toy: ", "Normal: ", "seeds 5, 6.")] == [True] * 3
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "results.jsonl",
        "settings.json",
        "comparison.md",
        "comparison-toy.png",
        "comparison-normal.png",
        "report.html",
    }


@pytest.mark.usefixtures("_without_pictures")
def test_what_is_finished_is_not_measured_again(tmp_path: Path, measured: list[Piece]) -> None:
    compare(tmp_path, "toy")
    before = lines(tmp_path)
    assert measured == [("toy", 0)]
    again = compare(tmp_path, "toy", "normal", "--seeds", "0,3")
    assert measured == [("toy", 0), ("toy", 3), ("normal", 0), ("normal", 3)]
    assert "Kept from" in again.stderr
    assert "toy, seed 0" in again.stderr
    assert lines(tmp_path)[: len(before)] == before
    only = compare(tmp_path, "toy", "--json")
    assert len(measured) == 4
    assert [json.loads(line) for line in only.stdout.splitlines()] == before
    compare(tmp_path, "toy", "--fresh")
    assert measured[4:] == [("toy", 0)]
    assert {line["argument"] for line in lines(tmp_path)} == {"toy"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--budget", 8), "budget was not given, is 8"),
        (("--replicates", 256), "replicates was 128, is 256"),
        (("--estimators", "ScoreFunction,DisARM"), "without Pathwise, with DisARM"),
        (("--trajectory", 2), "trajectory was 0, is 2"),
    ],
)
@pytest.mark.usefixtures("_without_pictures")
def test_results_of_other_settings_are_not_mixed(tmp_path: Path, changed: tuple[str, object], words: str) -> None:
    compare(tmp_path, "toy")
    before = (tmp_path / "results.jsonl").read_bytes()
    result = run("compare", "toy", *QUICK, *changed, "--out", tmp_path)
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert words in said
    assert "--fresh" in said
    assert (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.usefixtures("_without_pictures")
def test_results_of_other_versions_are_not_mixed(tmp_path: Path) -> None:
    compare(tmp_path, "toy")
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"torch": "2.6.0", "code": "of another day"}))
    said = compare(tmp_path, "toy").stderr.replace("│", " ")
    assert "torch was 2.6.0" in " ".join(said.split())
    assert "source was changed" in " ".join(said.split())
    path.unlink()
    assert compare(tmp_path, "toy").exit_code == 2
    assert compare(tmp_path, "toy", "--fresh").exit_code == 0


@pytest.mark.usefixtures("_without_pictures")
@pytest.mark.parametrize("name", ["results.jsonl", "settings.json"])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, name: str) -> None:
    compare(tmp_path, "toy")
    path = tmp_path / name
    path.write_text(path.read_text()[:-20])
    result = compare(tmp_path, "toy")
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert "cut off or changed" in said
    assert "--fresh" in said
    assert compare(tmp_path, "toy", "--fresh").exit_code == 0


@pytest.mark.usefixtures("_without_pictures")
def test_a_changed_problem_is_not_mixed(tmp_path: Path, measured: list[Piece]) -> None:
    model = tmp_path / "model.py"
    text = (
        "import torch\n"
        "def problem():\n"
        "    return lambda x: x.square(), torch.distributions.Normal(torch.ones((), requires_grad=True), 1.0)\n"
    )
    model.write_text(text)
    name, out = f"{model}:problem", tmp_path / "out"
    assert compare(out, name).exit_code == compare(out, name).exit_code == 0
    assert measured == [(name, 0)]
    model.write_text(text.replace("square", "exp"))
    result = compare(out, name)
    assert result.exit_code == 2
    assert "another version of" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("in_preparation", [False, True])
@pytest.mark.usefixtures("_without_pictures")
def test_an_interrupted_run_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_preparation: bool
) -> None:
    compared = diagnostics.compare
    calls: list[int] = []

    def interrupted(*arguments: Any, seed: int, progress: Callable[[str, int, int], None], **keywords: Any) -> Any:
        calls.append(seed)
        if seed == 1 and in_preparation:
            raise KeyboardInterrupt

        def told(stage: str, done: int, total: int) -> None:
            if seed == 1 and (stage, done) == ("measuring", 8):
                raise KeyboardInterrupt

        return compared(*arguments, seed=seed, progress=told, **keywords)

    monkeypatch.setattr(diagnostics, "compare", interrupted)
    result = compare(tmp_path, "toy", "--seeds", 3)
    assert result.exit_code == INTERRUPTED
    assert "Interrupted: 2 of 3 left" in result.stderr
    assert calls == [0, 1]
    kept = lines(tmp_path)
    assert {(line["seed"], line["interrupted"]) for line in kept} - {(1, True)} == {(0, False)}

    monkeypatch.setattr(diagnostics, "compare", compared)
    assert compare(tmp_path, "toy", "--seeds", 3).exit_code == 0
    assert [line for line in lines(tmp_path) if line["seed"] == 0] == [line for line in kept if line["seed"] == 0]
    assert {(line["seed"], line["interrupted"]) for line in lines(tmp_path)} == {(seed, False) for seed in range(3)}


@pytest.mark.usefixtures("_without_pictures")
def test_a_failing_problem_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("def problem():\n    raise RuntimeError('no data')\n")
    out = tmp_path / "out"
    result = compare(out, "toy", f"{tmp_path / 'failing.py'}:problem")
    assert result.exit_code == 2
    assert "failing.py:2: RuntimeError: no data" in result.stderr.splitlines()
    assert {line["argument"] for line in lines(out)} == {"toy"}


def test_json_keeps_every_number() -> None:
    measured = diagnostics.compare(
        lambda x: x.square().sum(-1), runs.Settings(()).make(Piece("toy", 0)).dist, [ScoreFunction()], replicates=128
    )
    (row,) = measured.rows
    endless = Row(**{**vars(row), "label": "a", "bias_visible": math.inf, "signal_to_noise": math.inf})
    unjudged = Row(**{**vars(row), "label": "b", "bias": None, "bias_z": None, "bias_visible": None})
    skipped = (Skipped("c", "refuses", refused=True), Skipped("d", "fails"))
    whole = diagnostics.Comparison(
        **{**vars(measured), "rows": (row, endless, unjudged), "skipped": skipped, "problem": "Toy"}
    )
    others = [diagnostics.Comparison(**{**vars(whole), "budget": budget}) for budget in (4, 8)]
    before = [
        Measured(Piece("toy", 0), whole, tuple(others), (Checkpoint(0, 1.5, whole), Checkpoint(9, 1.0, whole)), jobs=2),
        Measured(Piece("my.py:f", 0), whole, source="abc"),
    ]
    text = results.to_text(line for result in before for line in results.to_lines(result))
    after = list(results.from_lines(map(json.loads, text.splitlines())))
    assert after == before


def test_an_eighth_of_the_replicates_at_a_quarter_and_a_half_of_the_budget() -> None:
    settings = runs.Settings(("ScoreFunction", "REBAR"), replicates=2048, budget=20, train_steps=1)
    result = runs.measure(Piece("toy", 0), settings)
    assert len(result.comparison.rows) == 2
    assert [len(c.rows) for c in result.curve] == [1, 1]  # REBAR learns: at each budget anew, if that is asked for
    assert [(c.budget, c.rows[0].evaluations, c.rows[0].replicates) for c in result.curve] == [
        (5, 5, 256),
        (10, 10, 256),
    ]
    assert runs.Settings((), budgets=(2, 20, 8)).curve(20) == (2, 8)
    assert runs.Settings((), budgets=()).curve(20) == ()
    assert runs.Settings(()).curve(1) == ()
