"""The tables of the arena: the order, the biased, each problem, the exact variances, the sensitivity, the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sampleprop.diagnostics.comparing.comparison import plain
from sampleprop.diagnostics.measuring.statistics import THRESHOLD, percent, rounded
from sampleprop.lab.arena.problems import FEWER_SEEDS, PROBLEMS
from sampleprop.lab.arena.records import Record
from sampleprop.lab.arena.rule import (
    FEWEST,
    SIZES,
    Standing,
    agreement,
    alternatives,
    by_duration,
    by_error,
    by_evaluations,
    by_problem,
    by_time,
    by_variance,
    competitors,
    spearman,
    standings,
)
from sampleprop.lab.show.terminal import NARROWEST

FIRST = 5  # names of an order


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title: one line.
        note: what it says, in sentences.
        columns: the headings; those in `left` are aligned to the left.
        rows: the cells.
        left: the numbers of the columns that hold words.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (1,)

    def markdown(self) -> str:
        """The table with its title."""
        return f"## {self.title}\n\n{self.body()}"

    def body(self) -> str:
        """The table with its note."""
        rules = [":---" if i in self.left else "---:" for i in range(len(self.columns))]
        lines = [self.columns, rules, *self.rows]
        body = ["| " + " | ".join(plain(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([self.note, "", *body])


def order(records: Sequence[Record]) -> Table:
    """The unbiased, by the rule."""
    columns = ("place", "estimator", "score", "90 %", "× time", "memory", "problems", "places", "f")
    found = [each for each in standings(records) if each.competitor.group == "unbiased"]
    return Table(
        "The unbiased",
        "Score: the geometric mean over problems of variance × evaluations, in units of leave-one-out; below 1 is "
        "better. 90 % of the resamples of problems and seeds lie in the brackets, and give these places. × time: the "
        "same by variance × time. A place "
        f"needs {FEWEST} problems.",
        columns,
        tuple(_ordered(each) for each in found),
        (1, 8),
    )


def biased(records: Sequence[Record]) -> Table:
    """Those that are biased in general, by mean squared error."""
    found = [each for each in standings(records) if each.competitor.group == "biased"]
    sizes = tuple(f"error, {size} evaluations" for size in SIZES)
    return Table(
        "The biased",
        "Mean squared error in units of that of leave-one-out, at two numbers of evaluations in all: the geometric "
        "mean over problems. The bias stays, however many evaluations there are. The place is by both.",
        ("place", "estimator", *sizes, "90 % of both", "memory", "problems", "f"),
        tuple(
            (
                _place(each),
                each.competitor.name,
                *(rounded(error, 3) for error in each.errors),
                interval(each),
                rounded(each.memory, 2),
                str(each.problems),
                str(each.competitor.record.facts["needs"]),
            )
            for each in found
        ),
        (1, 7),
    )


def others(records: Sequence[Record]) -> Table:
    """Those without a place because they are exact, or because a bias was seen where they claim none."""
    found = [each for each in standings(records) if each.competitor.group in ("exact", "refuted")]
    reasons = {"exact": "exact: no variance where it fits the budget", "refuted": "claims no bias, and has one"}
    rows = tuple((each.competitor.name, reasons[each.competitor.group], str(each.problems)) for each in found)
    return Table("Without a place", "What is exact needs no order.", ("estimator", "why", "problems"), rows, (0, 1))


def by_problems(records: Sequence[Record], group: str) -> Table:
    """The ratio on each problem, of those in the order or of the biased."""
    names = [name for name in PROBLEMS if any(key.problem == name for record in records for key in record.cells)]
    value = by_evaluations if group == "unbiased" else by_error(SIZES[0])
    rows = []
    for each in standings(records):
        if each.competitor.group == group:
            ratios = by_problem(each.competitor, value)
            cells = [rounded(ratios[name], 2) if name in ratios else "" for name in names]
            rows.append((each.competitor.name, *cells))
    what = "Variance × evaluations" if group == "unbiased" else f"Mean squared error of {SIZES[0]} evaluations"
    return Table(
        "Each problem" if group == "unbiased" else "Each problem, the biased",
        f"{what} in units of leave-one-out, the geometric mean over budgets and seeds.",
        ("estimator", *names),
        tuple(rows),
        (0,),
    )


def one(records: Sequence[Record], problem: str, budget: int, names: Sequence[str] | None = None) -> Table:
    """One problem at one budget: what each estimator is worth there, and at what cost.

    Args:
        records: the files.
        problem: of the suite.
        budget: one of its budgets.
        names: the rows, as the table has them; None for all.

    Raises:
        ValueError: for a problem or a budget that the suite does not have, and for a row that the files do not have.
    """
    if problem not in PROBLEMS or budget not in PROBLEMS[problem].budgets:
        raise ValueError(f"A table needs a problem of the suite and one of its budgets; got {problem} {budget}.")
    rows: list[tuple[bool, float, tuple[str, ...]]] = []
    for each in competitors(records):
        cells = [cell for where, cell in each.cells.items() if (where[0], where[2]) == (problem, budget)]
        if cells and (names is None or each.name in names):
            scores = [[value(cell) for cell in cells] for value in (by_variance, by_duration, by_time, by_evaluations)]
            means = [math.exp(fmean(logs)) for logs in scores]
            seen = any((cell.bias_z or 0.0) > THRESHOLD for cell in cells)
            bias = fmean((cell.bias if seen else cell.bias_visible) or 0.0 for cell in cells)
            spread = [f"{rounded(math.exp(log), 2)}" for log in (min(scores[2]), max(scores[2]))]
            texts = (
                each.name,
                "/".join(str(n) for n in sorted({cell.evaluations for cell in cells})),
                percent(bias) if seen else f"< {percent(bias)}",
                *(rounded(mean, 2) for mean in means[:2]),
                rounded(means[2], 2) + (f" ({spread[0]} to {spread[1]})" if len(cells) > 1 else ""),
                rounded(means[3], 2),
            )
            rows.append((seen or not each.record.facts["unbiased"], means[3], texts))
    absent = sorted(set(names or ()) - {texts[0] for *_, texts in rows})
    if absent:
        raise ValueError(f"{problem} {budget} needs rows that the files have; got {'; '.join(absent)}.")
    seeds = len({key.seed for record in records for key in record.cells if key.problem == problem})
    order = "The unbiased are first, by variance × evaluations."
    units = (
        "In units of leave-one-out at the same number of evaluations; geometric means over the seeds "
        f"({seeds} at most), with the least and the largest in brackets. 0.01 and 100 stand for less and for more. "
    )
    return Table(
        f"{problem}, {budget} evaluations",
        units + order if names is None else f"Geometric means over {seeds} seeds. {order}",
        ("estimator", "evaluations", "bias", "variance", "time", "variance × time", "variance × evaluations"),
        tuple(row for *_, row in sorted(rows)),
        (0,),
    )


def published(records: Sequence[Record]) -> Table:
    """The exact variances of the published toys beside the measured ones."""
    rows = []
    for problem, entry in PROBLEMS.items():
        for budget in entry.budgets:
            for label, exact in entry.exact(budget).items():
                cells = [
                    cell
                    for record in records
                    for cell in record.cells.values()
                    if cell.label == label and cell.key.problem == problem and not cell.reason
                    if cell.evaluations == budget and not cell.key.trained
                ]
                if cells:
                    ours = fmean(cell.variance for cell in {cell.key.seed: cell for cell in cells}.values())
                    ratio = ours / exact if exact else float(ours > 1e-20)
                    off = f"{100 * (ratio - 1):+.1f} %" if exact else f"{ours:.0e}"
                    rows.append((problem, label, str(budget), f"{exact:.4g}", f"{ours:.4g}", off))
    return Table(
        "The published toys",
        "Variances by the formulas of these papers' toys, and ours, the mean over the seeds.",
        ("problem", "estimator", "evaluations", "exact", "measured", "difference"),
        tuple(rows),
        (0, 1),
    )


def sensitivity(records: Sequence[Record]) -> Table:
    """How much the order of the unbiased depends on the rule."""
    names = [each.competitor.name for each in standings(records) if each.competitor.group == "unbiased" and each.rank]
    found = alternatives(records)
    rows = []
    for rule, scores in found.items():
        ranked = sorted((s, name) for s, name in zip(scores, names, strict=True) if math.isfinite(s))
        if len(ranked) > 1:
            agrees = f"{spearman(found['the rule'], scores):.2f}"
            rows.append((rule, agrees, "; ".join(name for _, name in ranked[:FIRST])))
    seeds = sorted({key.seed for record in records for key in record.cells})
    split = (
        f" Two halves of the seeds agree with a rank correlation of {agreement(records, seeds[::2], seeds[1::2]):.3f}."
        if len(seeds) > 1
        else ""
    )
    return Table(
        "Other rules",
        f"The rank correlation of other rules with ours, over those that both order, and their first {FIRST}.{split}",
        ("rule", "rank correlation", f"first {FIRST}"),
        tuple(rows),
        (0, 2),
    )


def coverage(records: Sequence[Record]) -> Table:
    """What was measured: the suite has five seeds of each problem, and every estimator that takes it."""
    rows = []
    for problem, entry in PROBLEMS.items():
        cells = [cell for record in records for cell in record.cells.values() if cell.key.problem == problem]
        seeds = sorted({cell.key.seed for cell in cells})
        measured = [cell for cell in cells if not cell.reason]
        estimators = {cell.key.entrant for cell in measured}
        rows.append(
            (
                problem,
                entry.family,
                ", ".join(map(str, entry.budgets)),
                str(entry.replicates),
                ", ".join(map(str, seeds)) or "none yet",
                str(len(estimators)),
                str(len(measured)),
            )
        )
    fewer = [
        f"{entrant} on {problem} at {budget} has {seeds or 'none'}"
        for (entrant, problem, budget), seeds in FEWER_SEEDS.items()
    ]
    return Table(
        "What was measured",
        "The suite has the seeds 0 to 4. What is not there yet, the same command measures. Fewer seeds, because they "
        f"take too long: {'; '.join(fewer)}.",
        ("problem", "family", "budgets", "replicates", "seeds", "estimators", "rows"),
        tuple(rows),
        (0, 1, 2, 4),
    )


def runs(records: Sequence[Record]) -> Table:
    """Who measured, where and when."""
    found: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        for run in record.runs:
            machine, used = run["machine"], run["versions"]
            key = (
                run["date"],
                run["command"],
                f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:g}, "
                f"{machine['jobs']} at a time",
                f"sampleprop {used['sampleprop']}, torch {used['torch']}, Python {used['python']}",
            )
            found.setdefault(key, []).append(record.name)
    rows = tuple((*key, str(len(names))) for key, names in sorted(found.items()))
    return Table(
        "Runs",
        "Times of a machine whose load is above its cores are not worth much; numbers at equal evaluations are.",
        ("date", "command", "machine", "versions", "files"),
        rows,
        (0, 1, 2, 3),
    )


def all_tables(records: Sequence[Record]) -> list[Table]:
    """Every table that has rows."""
    found = [
        order(records),
        biased(records),
        others(records),
        by_problems(records, "unbiased"),
        by_problems(records, "biased"),
        published(records),
        sensitivity(records),
        coverage(records),
        runs(records),
    ]
    return [table for table in found if table.rows]


def show(records: Sequence[Record], console: Console) -> None:
    """Print the order, and the biased."""
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for table in (order(records), biased(records), others(records)):
        if table.rows:
            shown = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
            for i, column in enumerate(table.columns):
                shown.add_column(column, justify="left" if i in table.left else "right")
            for row in table.rows:
                shown.add_row(*map(Text, row))
            console.print(shown)
            console.print(Text(f"· {table.note}", style="dim"))
    missing = sum(cell.reason != "" for record in records for cell in record.cells.values())
    counted = sum(len(each.cells) for each in competitors(records))
    console.print(
        Text(
            f"· {counted} rows. {missing} more could not be measured; the files say why.",
            style="dim",
        )
    )


def _ordered(each: Standing) -> tuple[str, ...]:
    return (
        _place(each),
        each.competitor.name,
        rounded(each.score, 3),
        interval(each),
        "–" if each.by_time is None else rounded(each.by_time, 3),
        rounded(each.memory, 2),
        str(each.problems),
        "–" if each.ranks is None else f"{each.ranks[0]}–{each.ranks[1]}",
        str(each.competitor.record.facts["needs"]),
    )


def _place(each: Standing) -> str:
    return "–" if each.rank is None else str(each.rank)


def interval(each: Standing) -> str:
    """The interval of the score."""
    return f"{rounded(each.interval[0], 2)} to {rounded(each.interval[1], 2)}"
