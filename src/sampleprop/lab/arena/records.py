"""The files of the arena: one JSON file an entrant, with everything that its rows depend on.

A file holds the facts of the entrant, the settings, the runs (command, date, versions, machine), and a line for each
cell. A run adds cells to the file. Rows of other settings, or of another version of the entrant, are never mixed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sampleprop
from sampleprop.diagnostics.comparing.comparison import versions
from sampleprop.estimator import Estimator
from sampleprop.lab.arena import entrants
from sampleprop.lab.arena.cells import Cell, Key
from sampleprop.lab.arena.problems import SUITE
from sampleprop.lab.measure.folder import replace

FORMAT = 1
STANDARD = Path(__file__).parent / "standard"  # the files that come with the library
DIGITS = 7
NUMBERS = tuple(
    each.name for each in dataclasses.fields(Cell) if each.name not in ("key", "reason", "refused", "label")
)
COLUMNS = ("problem", "seed", "budget", "trained", "run", "label", *NUMBERS)
ESTIMATES = ("evaluations", "replicates", "variance", "variance_error", "gradient", "loo_evaluations", "loo_variance")
ROUNDING = 1e-4  # of a variance in float32, when operations have another order
INFINITE = ("bias", "bias_visible", "bias_z", "signal_to_noise")


@dataclass
class Record:
    """The file of one entrant.

    Attributes:
        entrant: as `entrants.make` takes it, or FILE.py:NAME.
        facts: what it says of itself.
        settings: what its rows depend on.
        certificate: what `certify` found; None for the library's own, which the tests certify.
        runs: who measured, where and when.
        refused: the problems that it does not take, with the reason.
        cells: by key.
        run_of: the number of the run that measured a cell.
    """

    entrant: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    certificate: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    cells: dict[Key, Cell] = field(default_factory=dict)
    run_of: dict[Key, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The entrant without the folder of its file."""
        return self.entrant.rpartition("/")[2]

    def add(self, cells: Iterable[Cell], run: Mapping[str, Any]) -> None:
        """Add the cells of a run."""
        if run not in self.runs:
            self.runs.append(dict(run))
        for cell in cells:
            if cell.refused:
                self.refused[cell.key.problem] = cell.reason
            else:
                self.cells[cell.key] = cell
                self.run_of[cell.key] = self.runs.index(dict(run))

    def has(self, key: Key) -> bool:
        """Whether a cell needs no measurement any more."""
        return key in self.cells or key.problem in self.refused


def settings(form: str, replicates: int | None, train_steps: int) -> dict[str, Any]:
    """What all files of a folder must share."""
    return {"suite": SUITE, "form": form, "replicates": replicates, "train_steps": train_steps}


def new(entrant: str, shared: Mapping[str, Any]) -> Record:
    """A file without rows."""
    made = entrants.make(entrant)
    used = versions()
    own = {"torch": used["torch"], "sampleprop": used["sampleprop"], "code": entrants.digest(made)}
    return Record(entrant, facts(made), {**shared, **own})


def facts(entrant: Any) -> dict[str, Any]:
    """What an entrant says of itself."""
    if not isinstance(entrant, Estimator):
        return {"unbiased": True, "needs": "black box", "learns": [], "source": None, "register": False}
    return {
        "unbiased": entrant.unbiased,
        "needs": entrant.needs,
        "learns": [*entrant.learns, *(["a moving average"] if entrant.moves else [])],
        "source": None if entrant.source is None else str(entrant.source),
        "register": type(entrant).__module__.startswith(f"{sampleprop.__name__}.estimators."),
    }


def this_run(command: str, jobs: int) -> dict[str, Any]:
    """Who measures: the command, the day, the versions and the machine, with how busy it was."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "jobs": jobs, "load": round(load, 1)},
    }


def path_of(folder: Path, entrant: str) -> Path:
    """Where the file of an entrant is."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', entrant.rpartition('/')[2]).strip('-')}.json"


def write(folder: Path, record: Record) -> None:
    """Write the file in one step."""
    head = {
        "format": FORMAT,
        "entrant": record.name,
        "facts": record.facts,
        "settings": record.settings,
        "certificate": record.certificate,
        "runs": record.runs,
        "refused": record.refused,
        "columns": list(COLUMNS),
    }
    lines = [json.dumps(_row(record, key), ensure_ascii=False) for key in sorted(record.cells)]
    reasons = [
        json.dumps([key.problem, key.seed, key.budget, key.trained, record.run_of[key], cell.reason])
        for key, cell in sorted(record.cells.items())
        if cell.reason
    ]
    rows = [line for line, key in zip(lines, sorted(record.cells), strict=True) if not record.cells[key].reason]
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    body = ",\n  ".join(rows)
    left = ",\n  ".join(reasons)
    replace(path_of(folder, record.entrant), f'{text},\n "rows": [\n  {body}\n ],\n "left out": [\n  {left}\n ]\n}}\n')


def read(path: Path) -> Record:
    """Read a file.

    Raises:
        ValueError: for a file that is none of `write`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or tuple(found["columns"]) != COLUMNS:
            raise ValueError("another format")
        record = Record(
            found["entrant"], found["facts"], found["settings"], found["certificate"], found["runs"], found["refused"]
        )
        for row in found["rows"]:
            _add_row(record, dict(zip(COLUMNS, row, strict=True)))
        for problem, seed, budget, trained, run, reason in found["left out"]:
            key = Key(record.entrant, problem, seed, budget, trained)
            record.cells[key], record.run_of[key] = Cell(key, reason=reason), run
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} needs to be as `sampleprop arena` wrote it; got {error}. Measure it again."
        ) from error
    return record


def read_all(folder: Path) -> list[Record]:
    """Every file of a folder, by name.

    Raises:
        ValueError: for files whose settings differ.
    """
    found = [read(path) for path in sorted(folder.glob("*.json"))]
    for record in found:
        for name in ("suite", "form", "replicates", "train_steps"):
            if record.settings[name] != found[0].settings[name]:
                raise ValueError(
                    f"The files in {folder} need the same settings; got {name} {found[0].settings[name]} in "
                    f"{found[0].name} and {record.settings[name]} in {record.name}. Keep them in two folders."
                )
    return found


def opened(folder: Path, entrant: str, shared: Mapping[str, Any], unchanged: Callable[[Record], bool]) -> Record:
    """The file of an entrant in a folder, to which a run of these settings may add; a new one where there is none.

    Args:
        folder: of the files.
        entrant: as `entrants.make` takes it.
        shared: what all files of the folder share.
        unchanged: whether rows that are measured again have the numbers of the file. It is asked where sampleprop or
            the code of the entrant was edited since: an edit that changes no number makes no other version.

    Raises:
        ValueError: for a file of other settings or of another version of the entrant.
    """
    record, path = new(entrant, shared), path_of(folder, entrant)
    if not path.exists():
        return record
    there = read(path)
    there.entrant, there.facts = entrant, record.facts
    there.cells = {key._replace(entrant=entrant): cell for key, cell in there.cells.items()}
    there.run_of = {key._replace(entrant=entrant): run for key, run in there.run_of.items()}
    edited = {name: record.settings[name] for name in ("sampleprop", "code")}
    if there.settings | edited == record.settings != there.settings and unchanged(there):
        there.settings |= edited
    differing = [
        f"{name} was {there.settings.get(name)}, is {value}"
        for name, value in record.settings.items()
        if there.settings.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{path} holds rows of other settings, which are not mixed with these: {'; '.join(differing)}. Delete it, "
            "or give another folder by --out."
        )
    return there


def same_numbers(first: Cell, second: Cell) -> bool:
    """Whether two cells are of the same estimates: memory and times may differ, and numbers by their rounding."""
    return first.label == second.label and all(
        math.isclose(getattr(first, name) or 0.0, getattr(second, name) or 0.0, rel_tol=ROUNDING) for name in ESTIMATES
    )


def _row(record: Record, key: Key) -> Sequence[Any]:
    cell = record.cells[key]
    numbers = [_short(getattr(cell, name)) for name in NUMBERS]
    return [key.problem, key.seed, key.budget, key.trained, record.run_of[key], cell.label, *numbers]


def _add_row(record: Record, row: dict[str, Any]) -> None:
    key = Key(record.entrant, row["problem"], row["seed"], row["budget"], row["trained"])
    numbers = {name: row[name] for name in NUMBERS}
    if numbers["bias_z"] is not None or numbers["bias"] is not None:
        numbers |= {name: math.inf for name in INFINITE if numbers[name] is None}
    record.cells[key] = Cell(key, label=row["label"], **numbers)
    record.run_of[key] = row["run"]


def _short(number: Any) -> Any:
    if not isinstance(number, float):
        return number
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
