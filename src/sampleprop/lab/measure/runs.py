"""What one `sampleprop compare` measures: pieces, each a problem with a seed, all with the same settings."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import sampleprop
from sampleprop import diagnostics
from sampleprop.diagnostics.comparing.compare import Progress
from sampleprop.diagnostics.comparing.comparison import Comparison, versions
from sampleprop.diagnostics.comparing.trajectory import Checkpoint, trajectory
from sampleprop.estimator import Estimator
from sampleprop.lab.measure import configurations, files, problems
from sampleprop.lab.measure.mistakes import explain_refusals

USUAL = 16  # evaluations of f, where neither the problem nor the command says how many
LEAST_REPLICATES = 128  # for a point of the curve, which shows an order of magnitude


class Piece(NamedTuple):
    """A problem with a seed: the unit of work, of resuming and of parallel runs."""

    problem: str
    seed: int

    def __str__(self) -> str:
        return f"{self.problem}, seed {self.seed}"


@dataclass(frozen=True)
class Settings:
    """What all pieces of a run share.

    Attributes:
        estimators: the configurations, each as `make_estimator` takes it.
        selection: "default" leaves out estimators that refuse the distribution or are not for E[f]; "all" and "named"
            list them with the reason.
        budget: evaluations of f; None for the problem's own.
        budgets: of the curve of variance against evaluations; None for a quarter and a half of the budget, without the
            estimators that learn, whose training at each budget would take most of the time.
        replicates: independent estimates for each estimator.
        train_steps: training steps for estimators that learn.
        trajectory: checkpoints along a path of φ; 0 for none.
        threads: threads of torch; None for 1 for built-in problems, and torch's choice for others.
        t: the target of the problem toy; None for its default.
        dim: the number of bits of the problem toy; None for its default.
    """

    estimators: tuple[str, ...]
    selection: str = "default"
    budget: int | None = None
    budgets: tuple[int, ...] | None = None
    replicates: int = 1024
    train_steps: int = 200
    trajectory: int = 0
    threads: int | None = None
    t: float | None = None
    dim: int | None = None

    def make(self, piece: Piece) -> problems.Problem:
        """The problem of a piece."""
        own = {"t": self.t, "dim": self.dim} if piece.problem == "toy" else {}
        return problems.find(piece.problem, seed=piece.seed, **own)()  # type: ignore[arg-type]

    def candidates(self, problem: problems.Problem, seed: int) -> list[Estimator[Any, Any]]:
        """The estimators in the order in which they are compared."""
        made = [configurations.make_estimator(text, seed) for text in self.estimators]
        if self.selection == "default":
            return [e for e in made if e.objective == "mean" and e.refusal(problem.dist) is None]
        if self.selection == "all":
            made.sort(key=lambda e: e.objective != "mean")  # the first one decides which objective is compared
        return made

    def curve(self, budget: int) -> tuple[int, ...]:
        """The further budgets to measure."""
        asked = (budget // 4, budget // 2) if self.budgets is None else self.budgets
        return tuple(sorted({other for other in asked if other >= 1} - {budget}))

    def measure(self, piece: Piece, progress: Progress | None = None, jobs: int = 1) -> Result:
        """What `measure` finds of a piece."""
        return measure(piece, self, progress, jobs)

    def describe(self) -> dict[str, Any]:
        """All that the numbers depend on besides the piece: results are mixed only where this is equal."""
        asked = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
        places = {text: place for text in self.estimators if (place := configurations.find_place(text))}
        own = {text: place.digest() for text, place in places.items()}
        return asked | versions() | {"files": own, "code": _digest(Path(sampleprop.__file__).parent)}


@dataclass(frozen=True)
class Result:
    """What was measured for a piece.

    Attributes:
        piece: the problem and the seed.
        comparison: at the budget.
        curve: at further budgets, with fewer replicates.
        checkpoints: along a path of φ.
        jobs: how many pieces were measured at the same time, on which the times depend.
        source: a digest of the problem's file; empty for built-in problems.
    """

    piece: Piece
    comparison: Comparison
    curve: tuple[Comparison, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    jobs: int = 1
    source: str = ""

    @property
    def finished(self) -> bool:
        """Whether it was measured to the end, without Ctrl-C."""
        measured = (self.comparison, *self.curve, *(checkpoint.comparison for checkpoint in self.checkpoints))
        return not any(comparison.interrupted for comparison in measured)


def measure(piece: Piece, settings: Settings, progress: Progress | None = None, jobs: int = 1) -> Result:
    """Measure one piece: the comparison, the curve and the trajectory, until Ctrl-C.

    Raises:
        Mistake: for a problem that cannot be measured.
    """
    with explain_refusals(), threads(settings.threads or (1 if piece.problem in problems.BUILT_IN else None)):
        problem = settings.make(piece)
        candidates = settings.candidates(problem, piece.seed)
        budget = settings.budget or problem.budget or USUAL
        shared: dict[str, Any] = {
            "context": problem.context,
            "seed": piece.seed,
            "train_steps": settings.train_steps,
        }

        def compared(taking_part: list[Estimator[Any, Any]], budget: int, replicates: int, stage: str) -> Comparison:
            comparison = diagnostics.compare(
                problem.f,
                problem.dist,
                taking_part,
                budget=budget,
                exact=problem.exact,
                replicates=replicates,
                progress=_staged(progress, stage),
                **shared,
            )
            return dataclasses.replace(comparison, problem=problem.title)

        result = Result(
            piece, compared(candidates, budget, settings.replicates, ""), jobs=jobs, source=source(piece.problem)
        )
        on_curve = [e for e in candidates if not (e.learns or e.moves)] if settings.budgets is None else candidates
        for other in settings.curve(budget):
            if not result.finished:
                return result
            further = compared(on_curve, other, max(LEAST_REPLICATES, settings.replicates // 8), f" at budget {other}")
            result = dataclasses.replace(result, curve=(*result.curve, further))
        if settings.trajectory and result.finished:
            checkpoints = trajectory(
                problem.f,
                problem.dist,
                candidates,
                checkpoints=settings.trajectory,
                budget=budget,
                replicates=settings.replicates,
                progress=_staged(progress, " along the path"),
                **shared,
            )
            result = dataclasses.replace(result, checkpoints=checkpoints)
        return result


def source(problem: str) -> str:
    """A digest of the file of a problem: results of another version of it are not kept. Empty for built-in problems."""
    place = None if problem in problems.BUILT_IN else files.find_place(problem, "PROBLEM")
    return "" if place is None else place.digest()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of torch's threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _staged(progress: Progress | None, stage: str) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{what}{stage}", done, total)


@cache
def _digest(folder: Path) -> str:
    """A digest of all source files: after each change in them it is another version."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
