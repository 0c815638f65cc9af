"""What one piece of the arena measures: every entrant on one problem with one seed, at three budgets.

A cell is an entrant, trained or not, on a problem with a seed at a budget. Its numbers at equal evaluations follow from
these alone: they do not depend on what else is measured in the same run, nor on the machine but for its rounding.
"""

from __future__ import annotations

import math
import statistics
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sampleprop.diagnostics.comparing.compare import Progress, prepare
from sampleprop.diagnostics.comparing.program import measure_entry
from sampleprop.diagnostics.comparing.row import Row, Skipped, row
from sampleprop.diagnostics.measuring.programs import Runs
from sampleprop.diagnostics.measuring.reference import LONG_RUN, MEAN, Reference, judge
from sampleprop.diagnostics.measuring.replicates import Expectation, describe_error
from sampleprop.diagnostics.measuring.tally import GROUPS, Tally, time_one
from sampleprop.estimator import Estimator
from sampleprop.lab.arena import entrants
from sampleprop.lab.arena.problems import PROBLEMS, Model
from sampleprop.lab.measure.problems import Problem
from sampleprop.lab.measure.runs import Piece, threads
from sampleprop.programs.coupled_replay import CoupledReplay

Entrant = Estimator[Any, Any] | CoupledReplay
SUSPECT, AGAIN = 4.0, 16
YARDSTICK = "ScoreFunction"  # with its default baseline, leave-one-out: all are compared to it


class Key(NamedTuple):
    """Which cell."""

    entrant: str
    problem: str
    seed: int
    budget: int
    trained: bool


@dataclass(frozen=True)
class Cell:
    """The numbers of one cell, or the reason why there are none.

    Attributes:
        key: which cell.
        reason: why it could not be measured; empty where it was.
        refused: whether the entrant does not take the problem at all, whatever the seed and the budget.
        label: the configuration that spends the budget.
        evaluations: of f for one estimate, counted.
        variance: the trace of the covariance of one estimate.
        variance_error: its standard error.
        bias: the length of the bias over that of the gradient, noise subtracted; None where it is not known. Where one
            that claims no bias is off by more than `SUSPECT` standard errors, it is that of 16 times as many new
            estimates: among thousands of cells some are off by chance, and rare large estimates make it more.
        bias_z: its test statistic, standard normal where there is no bias.
        bias_visible: the relative bias that would have been seen with 99 % probability.
        gradient: the length of the gradient.
        signal_to_noise: the length of the mean over the square root of the variance.
        milliseconds: the median time of one estimate, forward and backward.
        megabytes: the most memory that tensors of one estimate held at once.
        replicates: independent estimates.
        loo_evaluations: of leave-one-out on the same problem, with the same seed, at the same budget.
        loo_variance: its variance.
        loo_milliseconds: its time, measured in the same rounds.
        loo_megabytes: its memory.
    """

    key: Key
    reason: str = ""
    refused: bool = False
    label: str = ""
    evaluations: int = 0
    variance: float = math.nan
    variance_error: float = math.nan
    bias: float | None = None
    bias_z: float | None = None
    bias_visible: float | None = None
    gradient: float | None = None
    signal_to_noise: float = math.nan
    milliseconds: float = math.nan
    megabytes: float = math.nan
    replicates: int = 0
    loo_evaluations: int = 0
    loo_variance: float = math.nan
    loo_milliseconds: float = math.nan
    loo_megabytes: float = math.nan


@dataclass(frozen=True)
class Settings:
    """What all pieces of a run share, and which cells are wanted.

    Attributes:
        wanted: the cells to measure.
        replicates: an upper bound for each problem's own number; None for none.
        train_steps: for what learns.
    """

    wanted: frozenset[Key]
    replicates: int | None
    train_steps: int

    def measure(self, piece: Piece, progress: Progress | None = None, jobs: int = 1) -> Measured:
        """All wanted cells of a piece, until Ctrl-C."""
        wanted = sorted(key for key in self.wanted if (key.problem, key.seed) == piece)
        entry = PROBLEMS[piece.problem]
        replicates = min(entry.replicates, self.replicates or entry.replicates)
        cells: list[Cell] = []
        finished = True
        with threads(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(piece.seed)
            problem = entry.make(piece.seed)
            if isinstance(problem, Model):
                measured = _of_program(problem, piece, wanted, replicates, self.train_steps)
            else:
                measured = _of_expectation(problem, piece, wanted, replicates, self.train_steps)
            try:
                for cell in measured:
                    cells.append(cell)
                    if progress is not None:
                        progress(f"{piece}, {cell.key.entrant}", len(cells), len(wanted))
            except KeyboardInterrupt:
                finished = False
        return Measured(piece, tuple(cells), finished, jobs)


@dataclass(frozen=True)
class Measured:
    """What was measured of a piece; all that was wanted, if it is finished."""

    piece: Piece
    cells: tuple[Cell, ...]
    finished: bool
    jobs: int


def _of_expectation(
    problem: Problem, piece: Piece, wanted: Sequence[Key], replicates: int, train_steps: int
) -> Iterator[Cell]:
    expectation = Expectation(problem.f, problem.dist, problem.context)
    reference = Reference(expectation, problem.exact, expectation.generator(piece.seed))
    for _ in range(GROUPS):
        reference.round(PROBLEMS[piece.problem].reference // LONG_RUN // GROUPS)
    gradient = reference.length()

    def alone(key: Key, yardstick: Tally | None) -> tuple[Cell, Tally]:
        """Measure one cell, and time leave-one-out in the same rounds."""
        torch.manual_seed(_seed(key))
        entrant = entrants.make(key.entrant, key.seed)
        if not isinstance(entrant, Estimator):
            raise _RefusalError(f"{entrant} takes programs only")
        tally = prepare(expectation, entrant, MEAN, key.budget, train_steps if key.trained else 0, _seed(key))
        if isinstance(tally, Skipped):
            raise _RefusalError(tally.reason) if tally.refused else ValueError(tally.reason)
        for _ in range(GROUPS):
            if yardstick is not None:
                time_one(expectation, yardstick)
            time_one(expectation, tally)
            tally.add(expectation.estimates(tally.estimator, replicates // GROUPS, tally.generator))
        with peak_memory() as memory:
            expectation.step(tally.estimator, tally.generator)
        bias = judge(tally, reference, expectation.rounding)
        if tally.estimator.unbiased and bias is not None and bias.z > SUSPECT:
            again = Tally(tally.estimator, tally.generator)
            for _ in range(GROUPS):
                again.add(expectation.estimates(again.estimator, AGAIN * replicates // GROUPS, again.generator))
            bias = judge(again, reference, expectation.rounding)
        found = row(tally, tally.estimator.name, tally.estimator.unbiased, bias, gradient)
        return _cell(key, found, gradient, memory.megabytes), tally

    yardsticks: dict[int, tuple[Cell, Tally]] = {}
    for key in wanted:
        if key.budget not in yardsticks:
            yardsticks[key.budget] = alone(key._replace(entrant=YARDSTICK, trained=False), None)
        cell, timed = yardsticks[key.budget]
        if key == cell.key:
            yield _beside(cell, cell, cell.milliseconds)
            continue
        timed = Tally(timed.estimator, expectation.generator(_seed(key)))
        try:
            found, _ = alone(key, timed)
        except Exception as error:
            yield Cell(key, reason=describe_error(error), refused=isinstance(error, _RefusalError))
            continue
        yield _beside(found, cell, 1000 * statistics.median(timed.seconds))


def _of_program(model: Model, piece: Piece, wanted: Sequence[Key], replicates: int, train_steps: int) -> Iterator[Cell]:
    """Each estimator at every site. The evaluations are those of the last cost, which all samples multiply."""
    runs = Runs(model.run, model.args)
    reference = runs.reference(replicates, Generator().manual_seed(piece.seed))

    def alone(key: Key) -> Cell:
        torch.manual_seed(_seed(key))
        made = entrants.make(key.entrant, key.seed)
        refusals = [made.refusal_of(site.variables) for site in runs.first.sites] if isinstance(made, Estimator) else []
        if any(refusals):
            raise _RefusalError(next(filter(None, refusals)))
        fitted = _fitted(model, made, key.budget)
        if fitted is None:
            raise ValueError(f"does not fit the budget of {key.budget} evaluations")
        entrant, evaluations = fitted
        generator, steps = Generator().manual_seed(_seed(key)), train_steps if key.trained else 0
        found = measure_entry(runs, entrant, reference, replicates, generator, steps)
        if found.claims_unbiased and (found.bias_z or 0.0) > SUSPECT:
            again = measure_entry(runs, entrant, reference, AGAIN * replicates, generator, steps)
            found = replace(found, bias=again.bias, bias_z=again.bias_z, bias_visible=again.bias_visible)
        with peak_memory() as memory:
            runs.estimate(model.run.using(entrant))
        return _cell(key, replace(found, evaluations=evaluations), reference.length(), memory.megabytes)

    yardsticks: dict[int, Cell] = {}
    for key in wanted:
        if key.budget not in yardsticks:
            yardsticks[key.budget] = alone(key._replace(entrant=YARDSTICK, trained=False))
        yardstick = yardsticks[key.budget]
        try:
            found = yardstick if key == yardstick.key else alone(key)
        except Exception as error:
            yield Cell(key, reason=describe_error(error), refused=isinstance(error, _RefusalError))
            continue
        yield _beside(found, yardstick, yardstick.milliseconds)


def _fitted(model: Model, entrant: Entrant, budget: int) -> tuple[Entrant, int] | None:
    """The entrant with the most samples that fit, and how many evaluations they are."""
    if isinstance(entrant, CoupledReplay):
        return (entrant, 1 + entrant.alternatives) if 1 + entrant.alternatives <= budget else None
    varied = "samples" in vars(entrant)
    for samples in range(math.isqrt(budget) if varied else 1, 0, -1):  # two sites, whose samples multiply
        if varied:
            if samples % entrant.samples_step or samples < entrant.samples_least:
                continue
            entrant.samples = samples
        counted = _evaluations(model, entrant)
        if counted <= budget:
            return entrant, counted
    return None


def _evaluations(model: Model, entrant: Estimator[Any, Any]) -> int:
    """How many numbers the last cost has in one run."""
    counted = 0
    function = model.run.__wrapped__

    def counting(*args: Tensor) -> Tensor:
        nonlocal counted
        cost = function(*args)
        assert cost is not None
        counted = cost.numel()
        return cost

    type(model.run)(counting).using(entrant)(*model.args)
    return counted


def _seed(key: Key) -> int:
    """A seed of the cell's own, whatever is measured beside it."""
    return crc32(repr(tuple(key)).encode())


def _cell(key: Key, found: Row, gradient: float | None, megabytes: float) -> Cell:
    shared = {field.name for field in fields(Cell)} & {field.name for field in fields(Row)}
    numbers = {name: getattr(found, name) for name in shared}
    return Cell(key, gradient=gradient, megabytes=megabytes, **numbers)


def _beside(cell: Cell, yardstick: Cell, milliseconds: float) -> Cell:
    """The cell with the numbers of leave-one-out."""
    return replace(
        cell,
        loo_evaluations=yardstick.evaluations,
        loo_variance=yardstick.variance,
        loo_milliseconds=milliseconds,
        loo_megabytes=yardstick.megabytes,
    )


class _RefusalError(TypeError):
    """An entrant does not take a problem."""


class _Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known: set[int] = set()

    @property
    def megabytes(self) -> float:
        """The most at once."""
        return self.most / 1e6

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self.known:
            return
        self.known.add(address)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


@contextmanager
def peak_memory() -> Iterator[_Memory]:
    """Measure the memory of the tensors that are made inside."""
    with _Memory() as memory:
        yield memory
