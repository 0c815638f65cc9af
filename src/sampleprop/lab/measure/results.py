"""Results as JSON lines, one for each estimator of each comparison; and results read from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.row import Row, Skipped
from sampleprop.diagnostics.comparing.trajectory import Checkpoint
from sampleprop.lab.measure.runs import Piece, Result

COMPARISON, CURVE, TRAJECTORY = "comparison", "curve", "trajectory"
INFINITE = ("bias", "bias_visible", "signal_to_noise", "error")  # numbers that may be infinite; JSON has no infinity

Line = dict[str, Any]


def to_lines(result: Result) -> list[Line]:
    """A line for each estimator that was measured or skipped, the comparison first."""
    found = _lines(result, result.comparison, COMPARISON)
    for comparison in result.curve:
        found += _lines(result, comparison, CURVE)
    for checkpoint in result.checkpoints:
        found += _lines(result, checkpoint.comparison, TRAJECTORY, step=checkpoint.step, value=checkpoint.value)
    return [line | {"lines": len(found)} for line in found]


def to_text(lines: Iterable[Line]) -> str:
    """JSON lines."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def from_lines(lines: Iterable[Line]) -> Iterator[Result]:
    """The results of these lines of `to_lines`.

    Raises:
        ValueError: where a line of a result is missing; and any error for lines that are none of `to_lines`.
    """
    for (argument, seed), group in groupby(lines, key=lambda line: (line["argument"], line["seed"])):
        found = list(group)
        if any(line["lines"] != len(found) for line in found):
            raise ValueError(
                f"The result of {Piece(argument, seed)} needs {found[0]['lines']} lines; got {len(found)}."
            )
        yield _result(Piece(argument, seed), found)


def _lines(result: Result, comparison: Comparison, kind: str, **where: float) -> list[Line]:
    run = {"kind": kind, "argument": result.piece.problem, "jobs": result.jobs, "source": result.source}
    lines = [json.loads(line) | run | where for line in comparison.to_json().splitlines()]
    refused = [skipped.refused for skipped in comparison.skipped]
    for line, is_refused in zip(lines[len(comparison.rows) :], refused, strict=True):
        line["refused"] = is_refused
    return lines


def _result(piece: Piece, lines: Sequence[Line]) -> Result:
    def groups(kind: str, key: str) -> Iterator[list[Line]]:
        chosen = [line for line in lines if line["kind"] == kind]
        return (list(group) for _, group in groupby(chosen, key=lambda line: line[key]))

    return Result(
        piece,
        [_comparison(group) for group in groups(COMPARISON, "budget")][0],  # noqa: RUF015  an IndexError for none
        tuple(_comparison(group) for group in groups(CURVE, "budget")),
        tuple(
            Checkpoint(group[0]["step"], group[0]["value"], _comparison(group)) for group in groups(TRAJECTORY, "step")
        ),
        lines[0]["jobs"],
        lines[0]["source"],
    )


def _comparison(lines: Sequence[Line]) -> Comparison:
    first = lines[0]
    return Comparison(
        rows=tuple(_row(line) for line in lines if "skipped" not in line),
        skipped=tuple(Skipped(line["label"], line["skipped"], line["refused"]) for line in lines if "skipped" in line),
        budget=first["budget"],
        seed=first["seed"],
        reference=first["reference"],
        parameters=tuple(first["parameters"]),
        gradient=first["gradient"],
        interrupted=first["interrupted"],
        problem=first["problem"],
    )


def _row(line: Line) -> Row:
    judged = line["bias_z"] is not None  # otherwise there was no reference, and None means no bias
    infinite = [name for name in INFINITE if line[name] is None and (judged or not name.startswith("bias"))]
    return Row(**{field.name: line[field.name] for field in fields(Row)} | dict.fromkeys(infinite, math.inf))
