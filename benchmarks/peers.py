"""The library beside Storchastic, Pyro and dice-mc: what one step takes, on every case that one of them has too.

    python benchmarks/peers.py [--only WORD ...] [--rounds N] [--seconds S] [--agreement] [--check-bars] [--json FILE]

First the gradients: each contender's mean is compared with the exact one on a small problem (|z| at most 5; with 400
tests in a run a false alarm once in 3,000 runs). Who does not run or does not agree is named, and not timed. The
variance in the table is ours over theirs there. Then the time, on one thread: in every round each contender has its
turn beside ours, and beside the tight yardstick where there is one, as in `run.py`; a ratio is the median over the
rounds. Every library is as it comes, the validation of distributions included. One that is not installed is left out by
name; `pip install -e '.[peers]'` installs the versions that were tried. With --agreement nothing is timed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import math
import os
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from contenders import ours, tight_steps
from contenders.problems import CASES, Case, Problem, Step, answer, by_hand
from report import geometric_mean
from run import ALLOCATOR, interleaved, quartiles, versions

MODULES = ("storchastic", "pyro_ppl", "dice")
LIMIT = 5.0  # of |z|
REPLICATES = 400
EQUAL, MEAN = 1.03, 0.45  # the bars
Row = dict[str, Any]


def installed() -> tuple[list[ModuleType], list[str]]:
    """The contenders that are here, and the names of those that are not."""
    found, missing = [], []
    for name in MODULES:
        try:
            found.append(importlib.import_module(f"contenders.{name}"))
        except ModuleNotFoundError as error:
            missing.append(f"{name} ({error})")
    return found, missing


def replicates(step: Step, problem: Problem, sums: bool) -> Tensor:
    """Gradients of the mean over the batch, [replicates, numbers]."""
    (leaf,) = problem.trained
    found = []
    for _ in range(REPLICATES):
        leaf.grad = None
        step()
        assert leaf.grad is not None
        found.append(leaf.grad.flatten().double() / (problem.batch if sums else 1))
    return torch.stack(found)


def expected(case: Case) -> Tensor:
    """The right gradient, [1, numbers]; of a relaxation replicates by hand, [replicates, numbers]."""
    relaxation = by_hand(case)
    if relaxation is not None:
        problem = case.small()
        return replicates(
            lambda: relaxation(problem.dist(problem.parameter()), problem.cost, case.samples).mean().backward(),
            problem,
            sums=False,
        )
    parameter = case.small().trained[0].detach().double().requires_grad_()
    (first,) = torch.autograd.grad(answer(case)(parameter), parameter, create_graph=True)
    if case.method != "second derivative":
        return first.detach().reshape(1, -1)
    return torch.autograd.grad(first.sum(), parameter)[0].reshape(1, -1)


def agreement(module: ModuleType, case: Case, right: Tensor) -> Row:
    """How far a contender's mean is from the right one, which bias would have been seen, and its variance."""
    problem = case.small()
    found = replicates(module.STEPS[case.method](problem, case.small_samples), problem, module.SUMS)
    variance = found.var(0) / len(found) + (right.var(0) / len(right) if len(right) > 1 else 0)
    difference, length = found.mean(0) - right.mean(0), right.mean(0).norm()
    error = variance.sqrt() + 1e-6 * length  # an exact one has only that of float32
    return {
        "z": (difference / error).abs().max().item(),
        "bias seen": ((LIMIT + 2.3) * error.max() / length).item(),  # in 99 of 100 runs
        "variance": (found.var(0).sum() * problem.batch / length**2).item(),
    }


def judged(case: Case, modules: list[ModuleType]) -> dict[str, Row]:
    """Each contender that has the case, ours first, with its agreement or why there is none."""
    right = expected(case)
    found: dict[str, Row] = {}
    for module in [ours, *modules]:
        if not case.has(module):
            continue
        try:
            row = agreement(module, case, right)
            row["says"] = "agrees" if row["z"] <= LIMIT else f"does not agree: |z| = {row['z']:.0f}"
        except Exception as error:  # any: the others are wanted too
            row = {"says": f"does not run: {type(error).__name__}: {error}".splitlines()[0]}
        found[module.PACKAGE] = row | {
            "case": str(case),
            "contender": module.PACKAGE,
            "agrees": row["says"] == "agrees",
        }
    return found


def timed(case: Case, modules: list[ModuleType], rounds: int, seconds: float) -> dict[str, Row]:
    """The time of our step, of theirs, of the tight yardstick where there is one, and the ratios.

    One problem for all, so that each has the same cost. Storchastic's turns change torch and put it back; beside them
    nothing else is compared than ours. The object is what building the distribution takes, which tight does without.
    """
    found = {}
    problem = case.problem()

    def cleared(step: Step) -> Step:
        def whole() -> None:
            for tensor in problem.trained:
                tensor.grad = None
            step()

        return whole

    for module in modules:
        steps = {"ours": ours.STEPS, "theirs": module.STEPS, "tight": tight_steps.STEPS}
        built = {key: cleared(of[case.method](problem, case.samples)) for key, of in steps.items() if case.method in of}
        if "tight" in built:
            built["object"] = lambda: problem.dist(problem.parameter())
        times = interleaved(built, rounds, seconds)
        row: Row = {key: 1e6 * statistics.median(values) for key, values in times.items()}
        if "tight" in built:
            times["both"] = [a + b for a, b in zip(times["tight"], times["object"], strict=True)]
        for key, name in (("ours", "ratio"), ("tight", "tight ratio"), ("both", "tight and object ratio")):
            if key in times:
                row[name] = quartiles([a / b for a, b in zip(times[key], times["theirs"], strict=True)])
        found[module.PACKAGE] = row
        gc.collect()
    return found


def summary(rows: list[Row]) -> str:
    """One line for each case: our time over that of each contender, and how far tight is from the best of them."""
    names = list(dict.fromkeys(row["contender"] for row in rows if "ratio" in row))
    lines = [
        f"| case | µs | over {' | over '.join(names)} | tight, tight and object, over the best |",
        "|---|--:|" + "--:|" * (len(names) + 1),
    ]
    for case in dict.fromkeys(row["case"] for row in rows if "ratio" in row):
        mine = {row["contender"]: row for row in rows if row["case"] == case and "ratio" in row}
        ratios = [f"{_ratio(mine[name]):.2f}" if name in mine else "" for name in names]
        best = max(mine.values(), key=_ratio)
        cells = [case, f"{best['ours']:.0f}", *ratios, _tight(best)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    lines = [
        "| case | contender | ours, µs | theirs, µs | ours over theirs | tight, tight and object | variance | agrees |",
        "|---|---|--:|--:|---|--:|--:|---|",
    ]
    for row in rows:
        cells = ["", "", "", ""]
        if "ratio" in row:
            first, median, third = row["ratio"]
            cells = [f"{row['ours']:.0f}", f"{row['theirs']:.0f}", f"{median:.2f} ({first:.2f} to {third:.2f})"]
            cells.append(_tight(row))
        noise = f"{row['variance ratio']:.2g}" if row.get("variance ratio") else ""
        lines.append(f"| {row['case']} | {row['contender']} | {' | '.join(cells)} | {noise} | {row['says']} |")
    return "\n".join(lines)


def bars(rows: list[Row]) -> str:
    """On every case at most `EQUAL` of each contender, and in the geometric mean `MEAN` of the best."""
    lines = ["### Bars\n"]
    both = [row for row in rows if "ratio" in row]
    for name in dict.fromkeys(row["contender"] for row in both):
        mine = [row for row in both if row["contender"] == name]
        above = [f"{row['case']} {row['ratio'][1]:.2f}" for row in mine if row["ratio"][1] > EQUAL]
        verdict = "MISSED" if above else "holds"
        mean = geometric_mean(row["ratio"][1] for row in mine)
        lines.append(
            f"- {verdict}: at most {EQUAL} of {name} on each of {len(mine)} cases. "
            + (f"Above: {', '.join(above)}" if above else f"The worst: {max(row['ratio'][1] for row in mine):.2f}")
            + f"; geometric mean {mean:.2f}"
        )
    best = [max((r for r in both if r["case"] == case), key=_ratio) for case in dict.fromkeys(r["case"] for r in both)]
    if best:
        mean = geometric_mean(map(_ratio, best))
        verdict = "holds" if mean <= MEAN else "MISSED"
        lines.append(f"- {verdict}: geometric mean at most {MEAN} of the best on {len(best)} cases. {mean:.2f}")
    known = [row for row in best if "tight ratio" in row]
    if known:
        mean, least = geometric_mean(map(_ratio, known)), geometric_mean(row["tight ratio"][1] for row in known)
        lines.append(
            f"- What can be had: on {len(known)} of them tight is at {least:.2f} of the best, ours at {mean:.2f}"
        )
    return "\n".join(lines)


def _tight(row: Row) -> str:
    known = [row[name][1] for name in ("tight ratio", "tight and object ratio") if name in row]
    return ", ".join(f"{ratio:.2f}" for ratio in known)


def _ratio(row: Row) -> float:
    return float(row["ratio"][1])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="cases whose names have one of these")
    parser.add_argument("--rounds", type=int, default=400, help="the most rounds of each pair")
    parser.add_argument("--seconds", type=float, default=4.0, help="about the most that each pair may take")
    parser.add_argument("--agreement", action="store_true", help="compare the gradients only")
    parser.add_argument("--check-bars", action="store_true", help="say which bars hold")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    modules, missing = installed()
    for name in missing:
        print(f"left out: {name}", file=sys.stderr)
    rows: list[Row] = []
    for case in CASES:
        if not any(word in str(case) for word in arguments.only) or not any(case.has(m) for m in modules):
            continue
        Distribution.set_default_validate_args(case.validated is not False)
        found = judged(case, modules)
        right = [module for module in modules if found.get(module.PACKAGE, {}).get("agrees")]
        times = {} if arguments.agreement else timed(case, right, arguments.rounds, arguments.seconds)
        for name, row in found.items():
            if row["agrees"] and row["variance"] > 0:
                row["variance ratio"] = found[ours.PACKAGE].get("variance", math.nan) / row["variance"]
            rows.append(row | times.get(name, {}))
            shown = f", ours over theirs {rows[-1]['ratio'][1]:.2f}" if "ratio" in rows[-1] else ""
            print(f"{row['case']}: {name} {row['says']}{shown}", file=sys.stderr)
    if not arguments.agreement:
        print(summary(rows) + "\n")
    print(table(rows))
    if arguments.check_bars:
        print("\n" + bars(rows))
    if arguments.json:
        named = {module.PACKAGE: importlib.metadata.version(module.PACKAGE) for module in modules}
        about = {"rows": rows, "versions": versions() | named, "missing": missing, "command": sys.argv}
        arguments.json.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
