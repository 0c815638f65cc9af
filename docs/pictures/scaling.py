"""How the time of a step grows, from the tables of the page "Benchmarks"."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import BIASED, DOTTED, INK, MUTED, THIRD, UNBIASED, figure, say, ticks

PAGE_OF_NUMBERS = Path(__file__).parents[1] / "benchmarks.md"
PANELS = {
    "samples": "Samples of 1,000 bits",
    "variables": "Bits",
    "classes": "Classes of one variable",
    "nodes": "Nodes of a structure",
}
COLORS = {
    "ScoreFunction": UNBIASED,
    "ScoreFunction(2)": UNBIASED,
    "DisARM": INK,
    "GumbelSoftmax": BIASED,
    "REBAR": THIRD,
    "LocalExpectation": INK,
    "PlackettLuce": UNBIASED,
    "KSubset": THIRD,
    "LinearChain": MUTED,
    "SpanningTree": INK,
}
APART = 3.0  # the ratio of the heights of two names


def numbers() -> Data:
    """For each table its sizes, and the microseconds of each column."""
    found: Data = {}
    lines = iter(PAGE_OF_NUMBERS.read_text(encoding="utf-8").splitlines())
    for line in lines:
        head = _cells(line)
        if head[0] in PANELS and head[1:2] == ["f alone"]:
            next(lines)
            columns: dict[str, list[tuple[int, int]]] = {name: [] for name in head[1:]}
            for row in iter(lines.__next__, ""):
                size, *times = (cell.replace(",", "") for cell in _cells(row))
                for name, time in zip(columns, times, strict=True):
                    if time:
                        columns[name].append((int(size), int(time)))
            found[head[0]] = columns
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _name(ax: Axes, columns: dict[str, list[tuple[int, int]]]) -> None:
    """The name of each line behind its end, apart from each other; above it where the line ends early."""
    largest, lowest = max(points[-1][0] for points in columns.values()), 0.0
    for size, time, name in sorted((*points[-1], name) for name, points in columns.items()):
        if size < largest:
            say(ax, size, 2 * time, name, COLORS[name], fontsize=8, ha="center", va="bottom")
            continue
        height = max(time, lowest)
        say(ax, 1.25 * size, height, name, COLORS[name], fontsize=8)
        lowest = APART * height


def draw(data: Data) -> Figure:
    """A panel for each table, with both axes in logarithms."""
    fig = figure(5.6)
    axes = fig.subplots(2, 2).flat
    for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
        columns = dict(data[name])
        alone = columns.pop("f alone")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.plot(*zip(*alone, strict=True), color=MUTED, lw=1.4, ls=DOTTED)
        say(ax, alone[0][0], 5, "f alone", MUTED, va="top")
        for line, points in columns.items():
            ax.plot(*zip(*points, strict=True), "o-", color=COLORS[line], ms=3.5, lw=1.6)
        largest = max(size for points in columns.values() for size, _ in points)
        _name(ax, columns)
        ax.set_title(title)
        ax.set_ylim(2, 2e6)
        ax.set_xlim(right=largest * (largest / alone[0][0]) ** 0.75)
        sizes = [size for size, _ in alone][:: 2 if len(alone) > 5 else 1]
        ticks(ax, "x", sizes, [f"{size:,}" for size in sizes])
        ticks(ax, "y", [10, 1000, 100_000], ["10 µs", "1 ms", "0.1 s"])
    return fig
