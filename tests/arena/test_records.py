"""The files of the arena: read as written, added to by the same settings only, and those that come with the library."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from arena.made import RUN, SETTINGS, cell, record
from sampleprop.lab.arena import entrants, records, running
from sampleprop.lab.arena.cells import Cell, Key, Settings
from sampleprop.lab.arena.problems import SUITE
from sampleprop.lab.measure.runs import Piece

SHARED = records.settings("standard", None, 200)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = record("MuProp", {"categorical": 0.123456789, "counts": 1e-34})
    made.certificate = {"ok": True, "sees": 0.02, "problems": {"one bit": "right"}, "undecided": {}}
    key = Key("MuProp", "chain", 0, 16, False)
    endless = cell(Key("MuProp", "subset", 0, 16, False), 0.0, signal_to_noise=math.inf)
    made.add([Cell(key, reason="because of “this”"), endless], RUN)
    records.write(tmp_path, made)
    read = records.read(records.path_of(tmp_path, "MuProp"))
    assert read.cells[key].reason == "because of “this”"
    rounded = float(f"{0.123456789:.{records.DIGITS}g}")
    assert read.cells[Key("MuProp", "categorical", 0, 16, False)].variance == rounded
    assert read.cells[endless.key].signal_to_noise == math.inf
    assert (read.facts, read.settings, read.runs, read.certificate) == (
        made.facts, made.settings, made.runs, made.certificate
    )  # fmt: skip
    assert set(read.cells) == set(made.cells)
    again = records.path_of(tmp_path, "MuProp").read_text()
    records.write(tmp_path, read)
    assert records.path_of(tmp_path, "MuProp").read_text() == again


def test_a_row_is_a_line(tmp_path: Path) -> None:
    records.write(tmp_path, record("MuProp", {"categorical": 0.5, "counts": 0.25}))
    lines = records.path_of(tmp_path, "MuProp").read_text().splitlines()
    assert sum(line.startswith('  ["') for line in lines) == 2


def test_a_run_adds_to_a_file_of_the_same_settings(tmp_path: Path) -> None:
    first = records.new("MuProp", SHARED)
    first.add(record("MuProp", {"categorical": 0.5}).cells.values(), RUN)
    records.write(tmp_path, first)
    opened = records.opened(tmp_path, "MuProp", SHARED, lambda record: False)
    opened.add(record("MuProp", {"counts": 0.5}).cells.values(), RUN | {"date": "2026-12-01"})
    assert [key.problem for key in opened.cells] == ["categorical", "counts"]
    assert [run["date"] for run in opened.runs] == ["2026-11-30", "2026-12-01"]
    assert list(opened.run_of.values()) == [0, 1]


@pytest.mark.parametrize(
    ("name", "value"), [("suite", SUITE + 1), ("train_steps", 100), ("torch", "1.0"), ("code", "0" * 16)]
)
def test_a_file_of_other_settings_is_not_added_to(tmp_path: Path, name: str, value: object) -> None:
    first = records.new("MuProp", SHARED)
    first.settings[name] = value
    records.write(tmp_path, first)
    with pytest.raises(ValueError, match=f"other settings, which are not mixed with these: {name} was"):
        records.opened(tmp_path, "MuProp", SHARED, lambda record: False)


def test_an_edit_of_the_code_that_changes_no_number_makes_no_other_version(tmp_path: Path) -> None:
    first = records.new("MuProp", SHARED)
    code = first.settings["code"]
    first.settings["code"] = "0" * 16
    key = Key("MuProp", "relax-45", 0, 2, False)
    (measured,) = Settings(frozenset([key]), None, 200).measure(Piece("relax-45", 0)).cells
    first.add([measured], RUN)
    records.write(tmp_path, first)
    order = running.Order(("MuProp",), ("relax-45",), (0,), False)
    run = running.start(order, tmp_path, (), Console(), 1)
    assert run.files["MuProp"].settings["code"] == code
    assert key not in run.missing()
    first.cells[key] = dataclasses.replace(measured, variance=1.001 * measured.variance)
    records.write(tmp_path, first)
    with pytest.raises(ValueError, match="code was 0000000000000000"):
        running.start(order, tmp_path, (), Console(), 1)


def test_a_folder_of_two_settings_is_refused(tmp_path: Path) -> None:
    first, second = record("MuProp", {"counts": 1.0}), record("DisARM", {"counts": 1.0})
    second.settings["form"] = "quick"
    for each in (first, second):
        records.write(tmp_path, each)
    with pytest.raises(ValueError, match="need the same settings; got form quick in DisARM and standard in MuProp"):
        records.read_all(tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", '{"format": 0}', "[1, 2"])
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "MuProp.json"
    path.write_text(damage)
    with pytest.raises(ValueError, match="needs to be as `sampleprop arena` wrote it"):
        records.read(path)


def test_the_files_that_come_with_the_library_are_of_this_suite() -> None:
    found = records.read_all(records.STANDARD)
    assert found
    for each in found:
        assert each.settings["suite"] == SUITE
        assert each.settings["form"] == "standard"
        assert each.entrant in entrants.known()
        assert records.path_of(records.STANDARD, each.entrant).exists()
        assert all(run["command"].startswith("sampleprop arena") for run in each.runs)


def test_a_file_holds_versions_machine_and_command() -> None:
    run = records.this_run("sampleprop arena", 3)
    text = json.dumps(run)
    assert set(run) == {"command", "date", "versions", "machine"}
    assert set(run["machine"]) == {"processor", "cores", "jobs", "load"}
    assert run["machine"]["jobs"] == 3
    assert "/" not in run["command"]
    assert json.loads(text) == run
    assert set(SETTINGS) <= {*records.new("MuProp", SHARED).settings}
