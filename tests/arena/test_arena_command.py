"""`sampleprop arena`: what it measures, keeps, shows and refuses."""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from arena.made import record
from sampleprop.lab.arena import pages, records, running
from sampleprop.lab.arena.cells import Cell, Settings
from sampleprop.lab.command.app import app
from sampleprop.lab.measure.mistakes import INTERRUPTED
from sampleprop.lab.measure.runs import Piece

DOCS = Path(__file__).parents[2] / "docs"
FEW = ("--quick", "--problems", "relax-45,counts")
WRONG = """
import sampleprop as sp
from template import Draw, Mine

class Wrong(Mine):
    '''The baseline includes the sample's own cost, so that the gradient is half as long.'''

    def estimate(self, variables, draw, costs):
        from sampleprop.surrogate import surrogate
        fixed = costs.fixed - costs.fixed.mean(0)
        gradient = variables.gradient_for_logits(draw.points, costs.shared(fixed))
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
"""


def arena(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["arena", *map(str, arguments)])


def numbers(folder: Path) -> dict[str, list[Any]]:
    """All but the times, by file."""
    columns = [i for i, name in enumerate(records.COLUMNS) if "milliseconds" not in name]
    found = {}
    for path in sorted(folder.glob("*.json")):
        rows = json.loads(path.read_text())["rows"]
        found[path.stem] = [[row[i] for i in columns] for row in rows]
    return found


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Piece, int]]:
    """What is really measured: the pieces, and of how many cells."""
    done: list[tuple[Piece, int]] = []
    measure = Settings.measure

    def counted(self: Settings, piece: Piece, *arguments: Any, **keywords: Any) -> Any:
        done.append((piece, sum((key.problem, key.seed) == piece for key in self.wanted)))
        return measure(self, piece, *arguments, **keywords)

    monkeypatch.setattr(Settings, "measure", counted)
    return done


def test_a_run_writes_files_and_a_second_one_measures_nothing(tmp_path: Path, pieces: list[Any]) -> None:
    result = arena("ScoreFunction", "DisARM", "StraightThrough", *FEW, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pieces == [(("relax-45", 0), 3), (("counts", 0), 3)]
    assert {path.name for path in tmp_path.iterdir()} >= {
        "ScoreFunction.json", "DisARM.json", "StraightThrough.json", "arena.html", "arena.md"
    }  # fmt: skip
    assert "The unbiased" in result.stdout
    assert "The biased" in result.stdout
    before = numbers(tmp_path)
    again = arena("ScoreFunction", "DisARM", "StraightThrough", *FEW, "--out", tmp_path)
    assert again.exit_code == 0, again.output
    assert len(pieces) == 2
    more = arena("ARM", *FEW, "--out", tmp_path)
    assert more.exit_code == 0, more.output
    assert pieces[2:] == [(("relax-45", 0), 1), (("counts", 0), 1)]
    fresh = tmp_path / "fresh"
    assert arena("ARM", "DisARM", "StraightThrough", "ScoreFunction", *FEW, "--out", fresh).exit_code == 0
    assert {name: rows for name, rows in numbers(fresh).items() if name != "ARM"} == before


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sampleprop.lab.arena import cells

    judged = cells.judge

    def interrupted(tally: Any, *arguments: Any) -> Any:
        if tally.estimator.name == "DisARM":
            raise KeyboardInterrupt
        return judged(tally, *arguments)

    monkeypatch.setattr(cells, "judge", interrupted)
    result = arena("ARM", "DisARM", "ScoreFunction", *FEW, "--out", tmp_path)
    assert result.exit_code == INTERRUPTED, result.output
    assert "5 rows left" in result.stderr
    assert list(numbers(tmp_path)) == ["ARM"]
    monkeypatch.setattr(cells, "judge", judged)
    result = arena("ARM", "DisARM", "ScoreFunction", *FEW, "--out", tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_several_processes_find_the_same_numbers(tmp_path: Path) -> None:
    for jobs in (1, 2):
        result = arena("REBAR", "MeasureValued", *FEW, "--jobs", jobs, "--out", tmp_path / str(jobs))
        assert result.exit_code == 0, result.output
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2")


def test_an_estimator_of_ones_own_is_certified_and_stands_beside_the_files(tmp_path: Path) -> None:
    """The template, as an author would begin; and a mistake that is as common as it is wrong."""
    template = arena("--template").stdout
    (tmp_path / "template.py").write_text(template)
    (tmp_path / "wrong.py").write_text(WRONG)
    own = (f"{tmp_path / 'template.py'}:Mine", f"{tmp_path / 'wrong.py'}:Wrong")
    out = tmp_path / "out"
    arguments = [word for text in own for word in ("--add", text)]
    result = arena(*arguments, "--quick", "--problems", "relax-45,one-bit", "--out", out)
    assert result.exit_code == 0, result.output
    assert "Mine(): nothing wrong was found" in result.stderr
    assert "Wrong(): wrong on" in result.stderr
    assert "claims no bias, and has one" in result.stdout
    mine = records.read(out / "template.py-Mine.json")
    assert mine.certificate is not None
    assert mine.certificate["ok"] is True
    assert mine.entrant == "template.py:Mine"  # without the folder
    loo = records.read(out / "ScoreFunction.json")
    for key, cell in mine.cells.items():
        other = loo.cells[key._replace(entrant="ScoreFunction")]
        error = math.hypot(cell.variance_error, other.variance_error)
        assert abs(cell.variance - other.variance) < 4.9 * error  # it is leave-one-out


def test_the_committed_files_are_shown_beside_an_addition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --quick; measured with few replicates here."""
    monkeypatch.setattr(running, "records", running.records)
    monkeypatch.setattr(records, "STANDARD", tmp_path / "standard")
    (tmp_path / "standard").mkdir()
    records.write(tmp_path / "standard", record("MuProp", {"relax-45": 0.5}))
    (tmp_path / "mine.py").write_text(arena("--template").stdout)
    monkeypatch.setattr(running, "_certified", lambda *_: {"ok": True})
    monkeypatch.setattr(Settings, "measure", _little(Settings.measure))
    out = tmp_path / "out"
    result = arena(
        "--add", f"{tmp_path / 'mine.py'}:Mine", "--problems", "relax-45", "--seeds", 1, "--out", out
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [name in result.stdout for name in ("mine.py:Mine", "MuProp", "ScoreFunction")] == [True] * 3


def _little(measure: Any) -> Any:
    return lambda self, *a, **k: measure(dataclasses.replace(self, replicates=128), *a, **k)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Nobody",), "There is no estimator 'Nobody'"),
        (("--problems", "digits,nothing"), "--problems needs some of relax-45"),
        (("--add", "DisARM"), "--add needs FILE.py:NAME; got 'DisARM'"),
        (("--add", "missing.py:Mine"), "needs the file missing.py"),
        (("--seeds", "none"), "--seeds needs a number of seeds"),
        (("--jobs", "2", "--dask", "tcp://127.0.0.1:1"), "--dask takes as many jobs as there are workers"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = arena(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.glob("out/*.json"))


def test_show_measures_nothing(tmp_path: Path, pieces: list[Any]) -> None:
    records.write(tmp_path, record("MuProp", dict.fromkeys(("counts", "subset", "chain"), 0.5)))
    result = arena("--show", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pieces == []
    assert "MuProp" in result.stdout
    assert (tmp_path / "arena.html").exists()


@pytest.mark.parametrize("page", ["arena.md", "choosing.md", "results/equal_time.md"])
def test_the_tables_of_the_documentation_are_those_of_the_files(page: str) -> None:
    """Otherwise: sampleprop arena --write docs/arena.md."""
    assert pages.filled(DOCS / page)


def test_a_page_is_made_from_the_files(tmp_path: Path) -> None:
    assert arena("--check", DOCS / "arena.md").exit_code == 0
    other = tmp_path / "arena.md"
    other.write_text(f"# Arena\n{pages.BEGIN} -->\nold\n{pages.END}\n{pages.BEGIN} counts 16 -->\n{pages.END}\nafter\n")
    assert arena("--check", other).exit_code == 1
    assert arena("--write", other).exit_code == 0
    assert arena("--check", other).exit_code == 0
    assert other.read_text().startswith("# Arena\n")
    assert other.read_text().endswith("\nafter\n")
    assert "\n## The unbiased\n" in other.read_text()
    assert other.read_text().count("| ScoreFunction | 16 |") == 1
    other.write_text(f"{pages.BEGIN} relax-45 4: ScoreFunction; REBAR, trained; ARM -->\n{pages.END}\n")
    assert arena("--write", other).exit_code == 0
    assert other.read_text().count("\n| ") == 5
    for words in ("counts", "counts 17", "nothing 16", "counts 16: ScoreFunction; Mine"):
        other.write_text(f"{pages.BEGIN} {words} -->\n{pages.END}\n")
        assert arena("--write", other).exit_code == 2
    other.write_text("no markers")
    assert arena("--check", other).exit_code == 2


@pytest.mark.slow
def test_the_quick_form_of_every_committed_file_agrees_with_it(tmp_path: Path) -> None:
    """What a pull request adds is measured again: each variance, at 5 standard errors of 256 estimates and the file's.

    The error of a variance is that of a sample: where it is mostly in few estimates, it is underestimated, and a row
    counts as other from a factor of 2 on too. The whole takes less than 90 seconds of one processor.
    """
    start = time.process_time()
    result = arena("--quick", "--out", tmp_path)
    assert time.process_time() - start < 90
    assert result.exit_code == 0, result.output
    standard = {each.entrant: each for each in records.read_all(records.STANDARD)}
    compared, off = 0, []
    for quick in records.read_all(tmp_path):
        committed = standard[quick.entrant].cells if quick.entrant in standard else {}
        for key, cell in quick.cells.items():
            there = committed.get(key)
            if there is not None:
                compared += 1
                off += (
                    [] if _agree(cell, there) else [(key, cell.reason or cell.variance, there.reason or there.variance)]
                )
    assert not off
    assert compared > 100


def _agree(quick: Cell, there: Cell) -> bool:
    if quick.reason or there.reason:
        return bool(quick.reason) == bool(there.reason)
    error = math.hypot(quick.variance_error, there.variance_error)
    near = 0.5 < (quick.variance + 1e-20) / (there.variance + 1e-20) < 2
    return quick.evaluations == there.evaluations and (abs(quick.variance - there.variance) < 5 * error or near)
