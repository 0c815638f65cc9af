"""The result of `compare`: numbers, and the same numbers as a table."""

from __future__ import annotations

import html
import json
import math
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sampleprop.diagnostics.comparing.row import COLUMNS, Row, Skipped, table
from sampleprop.diagnostics.measuring.statistics import aligned

FEW = 3  # refusals whose reasons are shown; of more only the names


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `compare`.

    Attributes:
        rows: the unbiased estimators by rank; then those that are biased in general, and those whose bias was seen
            here, both by mean squared error.
        skipped: those that could not take part, with the reason.
        budget: evaluations of f allowed for one estimate.
        seed: for all noise.
        reference: a description of the gradient against which the bias is measured.
        parameters: the names of the parameters of the distribution whose gradient was measured.
        gradient: the length of the gradient, summed over the batch; None where it is not known.
        interrupted: whether Ctrl-C ended the measurement early.
        problem: a title, where the problem has one.
    """

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    budget: int
    seed: int
    reference: str
    parameters: tuple[str, ...]
    gradient: float | None
    interrupted: bool = False
    problem: str = ""

    def to_json(self) -> str:
        """One JSON line for each row and each skipped estimator, each with the versions, the seed and the settings."""
        shared = {
            "problem": self.problem,
            "budget": self.budget,
            "seed": self.seed,
            "reference": self.reference,
            "parameters": self.parameters,
            "gradient": self.gradient,
            "interrupted": self.interrupted,
            "versions": versions(),
        }
        lines = [asdict(row) | _derived(row) | shared for row in self.rows]
        lines += [{"label": s.label, "skipped": s.reason} | shared for s in self.skipped]
        return "\n".join(json.dumps(_finite(line), ensure_ascii=False) for line in lines)

    def to_markdown(self) -> str:
        """A table for a README or a notebook."""
        lines = [_markdown(COLUMNS), _markdown(("---:", ":---", *["---:"] * (len(COLUMNS) - 2)))]
        lines += [_markdown(row.cells()) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {plain(note)}" for note in self.notes())])

    def notes(self) -> list[str]:
        """Sentences that explain the table."""
        counts = sorted({row.replicates for row in self.rows})
        replicates = (
            f", {' to '.join(str(count) for count in counts[:: max(1, len(counts) - 1)])} replicates" if counts else ""
        )
        notes = [
            f"Gradient with respect to {', '.join(self.parameters)}; at most {self.budget} evaluations of "
            f"f{replicates}; seed {self.seed}.",
            f"Bias against: {self.reference}. “< x” says that no bias was seen, and that one of x would have been "
            "seen.",
            "Ranked by variance × time; “rank by f” is by variance × evaluations, for an f that takes all the time. "
            "Biased rows follow without a rank, by mean squared error: no number of samples removes a bias.",
        ]
        lucky = ", ".join(row.label for row in self.rows if row.group == "biased in general")
        if lucky:
            notes.append(f"In brackets: biased in general, though no bias was seen here: {lucky}.")
        steps = {row.trained for row in self.rows if row.trained}
        if steps:
            names = ", ".join(row.label for row in self.rows if row.trained)
            notes.append(f"Trained for {steps.pop()} steps on this problem first: {names}.")
        if self.interrupted:
            notes.append("Interrupted: fewer replicates than asked for.")
        refused = [s for s in self.skipped if s.refused]
        if len(refused) > FEW:
            notes.append(f"Do not take this distribution: {', '.join(s.label for s in refused)}.")
        explained: dict[str, list[str]] = {}
        for skipped in self.skipped:
            if not skipped.refused or len(refused) <= FEW:
                explained.setdefault(skipped.reason, []).append(skipped.label)
        return notes + [f"Not compared: {', '.join(labels)}: {reason}" for reason, labels in explained.items()]

    def __repr__(self) -> str:
        lines = aligned([COLUMNS, *(row.cells() for row in self.rows)], left=(1,))
        return "\n".join([*([self.problem] if self.problem else []), *lines, *self.notes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes())
        return f"{table(self.rows, self.problem)}<ul>{notes}</ul>"


def versions() -> dict[str, str]:
    """The versions on which the numbers depend."""
    from sampleprop import __version__

    return {"sampleprop": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _derived(row: Row) -> dict[str, Any]:
    return {
        "biased": row.biased,
        "group": row.group,
        "variance_time": row.variance_time,
        "variance_evaluations": row.variance_evaluations,
    }


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Text for Markdown, in which nothing is taken for an HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
