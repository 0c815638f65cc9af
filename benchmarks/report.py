"""The rows of a run as Markdown: each row, and one line for each estimator."""

import math
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

SLOWER = 1.05  # how much above 1 a ratio to the other checkout is worth a look
SUMMARIZED = ("toy-1", "toy-1000", "categorical", "vae")


def cell(ratios: dict[str, list[float]], key: str) -> str:
    if key not in ratios:
        return "-"
    first, median, third = ratios[key]
    return f"{median:.2f} ({first:.2f} to {third:.2f})"


def table(rows: list[Row]) -> str:
    """Markdown: one table for each workload."""
    lines = []
    for workload in dict.fromkeys(r["workload"] for r in rows):
        mine = [r for r in rows if r["workload"] == workload]
        columns = list(dict.fromkeys(key for r in mine for key in r["ratios"]))
        unit = mine[0]["unit"]
        lines += [
            f"\n### {workload}\n",
            f"| estimator | samples | {unit} | " + " | ".join(f"over {c}" for c in columns) + " |",
        ]
        lines.append("|---|--:|--:|" + "---|" * len(columns))
        for r in mine:
            cells = " | ".join(cell(r["ratios"], c) for c in columns)
            lines.append(f"| {r['estimator']} | {r['samples']} | {r['ours']:.0f} | {cells} |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Ratios to naive and to tight, over the numbers of samples their geometric mean; the last line is over all
    estimators."""
    shown = [workload for workload in SUMMARIZED if any(r["workload"] == workload for r in rows)]
    if not shown:
        return ""
    names = list(dict.fromkeys(r["estimator"] for r in rows if r["workload"] in shown))
    lines = ["| over naive, over tight | " + " | ".join(shown) + " |", "|---|" + "--:|" * len(shown)]
    for name in [*names, "all"]:
        cells = []
        for workload in shown:
            mine = [r for r in rows if r["workload"] == workload and name in (r["estimator"], "all")]
            both = (geometric_mean(r["ratios"][key][1] for r in mine) for key in ("naive", "tight"))
            cells.append(", ".join(f"{ratio:.2f}" for ratio in both) if mine else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against(rows: list[Row]) -> str:
    """The ratios to the other checkout: for each workload their geometric mean, and the rows above `SLOWER`."""
    both = [r for r in rows if "before" in r["ratios"]]
    lines = ["### Over before\n", f"| workload | rows | geometric mean | above {SLOWER} |", "|---|--:|--:|---|"]
    for workload in dict.fromkeys(r["workload"] for r in both):
        ratios = {
            f"{r['estimator']} ({r['samples']})": r["ratios"]["before"][1] for r in both if r["workload"] == workload
        }
        above = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio > SLOWER)
        lines.append(f"| {workload} | {len(ratios)} | {geometric_mean(ratios.values()):.3f} | {above or 'none'} |")
    return "\n".join(lines)


def geometric_mean(numbers: Iterable[float]) -> float:
    logarithms = [math.log(number) for number in numbers]
    return math.exp(sum(logarithms) / max(len(logarithms), 1))
