"""One run of the arena: which cells are wanted, which are missing in the files, and how results get into them."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from sampleprop.certificates import certify
from sampleprop.estimator import Estimator
from sampleprop.lab.arena import entrants, records
from sampleprop.lab.arena.cells import YARDSTICK, Key, Measured, Settings
from sampleprop.lab.arena.problems import FEWER_SEEDS, PROBLEMS
from sampleprop.lab.arena.records import Record
from sampleprop.lab.measure import configurations, progress, workers
from sampleprop.lab.measure.runs import Piece

TEMPLATE = Path(__file__).parent / "template.py"
TRAIN_STEPS = 200
QUICK = ("relax-45", "one-bit", "categorical", "counts", "digital-option", "subset")
QUICK_REPLICATES = 256
QUICK_CERTIFICATE = 0.2  # the relative bias that is to be seen


class Order(NamedTuple):
    """What was asked for.

    Attributes:
        estimators: as `entrants.make` takes them.
        problems: of the suite.
        seeds: one or more.
        quick: whether few replicates of the smallest budgets are enough, and nothing is trained.
    """

    estimators: tuple[str, ...]
    problems: tuple[str, ...]
    seeds: tuple[int, ...]
    quick: bool

    @property
    def shared(self) -> dict[str, object]:
        """The settings of all files."""
        if self.quick:
            return records.settings("quick", QUICK_REPLICATES, 0)
        return records.settings("standard", None, TRAIN_STEPS)

    def cells(self, entrant: str, learns: bool) -> list[Key]:
        """The cells of one entrant."""
        trained = (False, True) if learns and not self.quick else (False,)
        return [
            Key(entrant, problem, seed, budget, steps)
            for problem in self.problems
            for seed in self.seeds
            for budget in (PROBLEMS[problem].budgets[1:2] if self.quick else PROBLEMS[problem].budgets)
            for steps in trained
            if seed < FEWER_SEEDS.get((entrant, problem, budget), math.inf)
        ]


@dataclass
class Run:
    """A run that adds to the files of a folder.

    Attributes:
        files: one record for each estimator that was asked for.
        wanted: all cells that were asked for.
        beside: records that are shown with them.
        folder: where the files are.
        settings: of the measurement.
        about: the command, the versions and the machine.
    """

    files: dict[str, Record]
    wanted: list[Key]
    beside: list[Record]
    folder: Path
    settings: Settings
    about: dict[str, object]

    def missing(self) -> list[Key]:
        """The cells that are in no file yet."""
        return [key for key in self.wanted if not self.files[key.entrant].has(key)]

    def results(self, jobs: int, dask: str | None, console: Console, broken: list[str]) -> Generator[Measured]:
        """Measure what is missing, one problem and seed after the other: first each problem with the first seed."""
        pieces = list(dict.fromkeys(Piece(key.problem, key.seed) for key in self.missing()))
        names = list(PROBLEMS)
        pieces.sort(key=lambda piece: (piece.seed, names.index(piece.problem)))
        return workers.results(pieces, self.settings, jobs=jobs, dask=dask, console=console, broken=broken)

    def keep(self, result: Measured) -> None:
        """Put the cells into the files."""
        for entrant in {cell.key.entrant for cell in result.cells}:
            record = self.files[entrant]
            record.add([cell for cell in result.cells if cell.key.entrant == entrant], self.about)
            records.write(self.folder, record)

    def left(self) -> int:
        """How many cells are still missing."""
        return len(self.missing())

    def shown(self) -> list[Record]:
        """The records of this run and those beside them, with the rows that these problems and seeds have."""
        own = [record for record in self.files.values() if record.cells or record.refused]
        names = {record.name for record in own}
        return own + [record for record in self.beside if record.name not in names]


def start(order: Order, folder: Path, added: Sequence[str], console: Console, jobs: int) -> Run:
    """Open the files, and certify what was added.

    Raises:
        ValueError: for files of other settings, and for an estimator that cannot be certified.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, wanted = {}, []
    for entrant in order.estimators:
        record = records.opened(folder, entrant, order.shared, lambda record: _unchanged(record, order.quick))
        if entrant in added and record.certificate is None:
            record.certificate = _certified(entrant, order.quick, console)
        files[entrant] = record
        wanted += order.cells(entrant, bool(record.facts["learns"]))
    missing = frozenset(key for key in wanted if not files[key.entrant].has(key))
    replicates = QUICK_REPLICATES if order.quick else None
    beside = [] if order.quick or not added else records.read_all(records.STANDARD)
    about = records.this_run(_command(), jobs)
    return Run(files, wanted, beside, folder, Settings(missing, replicates, TRAIN_STEPS), about)


def shown(folder: Path) -> list[Record]:
    """The files of a folder; those of the library where it has none."""
    found = records.read_all(folder) if folder.is_dir() else []
    return found or records.read_all(records.STANDARD)


def chosen_estimators(names: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """The entrants that were asked for; with nothing but additions those and leave-one-out.

    Raises:
        ValueError: for an unknown one, and for an addition that is no FILE.py:NAME.
    """
    for text in added:
        if configurations.find_place(text) is None:
            raise ValueError(f"--add needs FILE.py:NAME; got {text!r}. Estimators of the suite need no --add.")
    suite = tuple(names) if names else (YARDSTICK,) if added else entrants.known()
    for text in (*suite, *added):
        entrants.make(text)
    return tuple(dict.fromkeys((*suite, *added)))


def chosen_problems(text: str | None, quick: bool) -> tuple[str, ...]:
    """The problems that were asked for.

    Raises:
        ValueError: for an unknown one.
    """
    if text is None:
        return QUICK if quick else tuple(PROBLEMS)
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in PROBLEMS]
    if unknown or not names:
        raise ValueError(f"--problems needs some of {', '.join(PROBLEMS)}; got {', '.join(unknown) or 'none'}.")
    return names


def _unchanged(record: Record, quick: bool) -> bool:
    """Whether the first row of a file, and the first trained one, are the same when they are measured again."""
    names = list(PROBLEMS)
    measured = sorted(record.cells, key=lambda key: (names.index(key.problem), key.seed, key.budget))
    for trained in (False, True):
        key = next((key for key in measured if key.trained == trained and not record.cells[key].reason), None)
        if key is not None:
            settings = Settings(frozenset([key]), QUICK_REPLICATES if quick else None, TRAIN_STEPS)
            (again,) = settings.measure(Piece(key.problem, key.seed)).cells
            if again.reason or not records.same_numbers(again, record.cells[key]):
                return False
    return True


def _certified(entrant: str, quick: bool, console: Console) -> dict[str, object] | None:
    """What `certify` finds of an estimator of the user's."""
    made = entrants.make(entrant)
    assert isinstance(made, Estimator)
    with progress.show_progress(console) as report:
        found = certify(made, detectable=QUICK_CERTIFICATE if quick else 0.02, progress=report)
    console.print(repr(found), highlight=False, soft_wrap=True)
    return {
        "ok": found.ok,
        "sees": found.sees if found.certificates else None,
        "problems": {each.problem: found.verdict(each) for each in found.certificates},
        "undecided": {each.problem: each.reason for each in found.undecided},
    }


def _command() -> str:
    """The command as it was typed, without folders."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["sampleprop", *words])
