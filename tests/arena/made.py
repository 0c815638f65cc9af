"""Records with made-up numbers, of which the scores are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampleprop.lab.arena.cells import Cell, Key
from sampleprop.lab.arena.records import Record

RUN = {
    "command": "sampleprop arena",
    "date": "2026-11-30",
    "versions": {"sampleprop": "0.1.0", "torch": "2.13.0", "python": "3.11.0"},
    "machine": {"processor": "made up", "cores": 2, "jobs": 1, "load": 0.0},
}
SETTINGS = {"suite": 1, "form": "standard", "replicates": None, "train_steps": 200, "torch": "2.13.0"}


def cell(key: Key, variance: float, **given: Any) -> Cell:
    """One whose leave-one-out has variance 1 and as many evaluations as the budget."""
    numbers: dict[str, Any] = {
        "label": f"{key.entrant}()",
        "evaluations": key.budget,
        "variance": variance,
        "variance_error": 0.01 * variance,
        "bias": 0.0,
        "bias_z": 0.0,
        "bias_visible": 0.05,
        "gradient": 1.0,
        "signal_to_noise": 1.0,
        "milliseconds": 2.0,
        "megabytes": 3.0,
        "replicates": 1024,
        "loo_evaluations": key.budget,
        "loo_variance": 1.0,
        "loo_milliseconds": 1.0,
        "loo_megabytes": 1.5,
    }
    return Cell(key, **numbers | given)


def record(
    name: str,
    variances: Mapping[str, float],
    *,
    seeds: tuple[int, ...] = (0,),
    trained: bool = False,
    facts: Mapping[str, Any] | None = None,
    **given: Any,
) -> Record:
    """One with these variances by problem, at the budget 16."""
    says = {"unbiased": True, "needs": "black box", "learns": [], "source": None, "register": True}
    found = Record(name, {**says, **(facts or {})}, dict(SETTINGS))
    keys = [Key(name, problem, seed, 16, trained) for problem in variances for seed in seeds]
    found.add([cell(key, variances[key.problem], **given) for key in keys], RUN)
    return found
