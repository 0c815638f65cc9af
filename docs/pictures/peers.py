"""What a step takes beside other libraries, from the table of the page "Benchmarks"."""

from pathlib import Path

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import INK, MUTED, PAGE, THIRD, UNBIASED, figure, panels, rows, say, ticks

PAGE_OF_NUMBERS = Path(__file__).parents[1] / "benchmarks.md"
LOOKS = {"storchastic": ("s", MUTED), "pyro-ppl": ("o", THIRD), "dice-mc": ("D", UNBIASED)}


def numbers() -> Data:
    """For each case the ratio to each contender that has it."""
    lines = iter(PAGE_OF_NUMBERS.read_text(encoding="utf-8").splitlines())
    head = next(line for line in lines if line.startswith("| case | µs | over "))
    names = [cell.removeprefix("over ") for cell in _cells(head) if cell.startswith("over ")]
    next(lines)
    found = {}
    for line in iter(lines.__next__, ""):
        case, _, *ratios = _cells(line)
        found[case] = {name: float(ratio) for name, ratio in zip(names, ratios, strict=False) if ratio}
    every = [ratio for row in found.values() for ratio in row.values()]
    return {"ratios": found, "pairs": len(every), "faster": sum(ratio <= 1 for ratio in every)}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def draw(data: Data) -> Figure:
    """A mark for each contender in the row of each case."""
    found = data["ratios"]
    fig = figure(1.0 + 0.2 * len(found))
    (ax,) = panels(fig, (1,))
    rows(ax, list(found))
    ax.tick_params(axis="y", labelsize=8)
    ax.set_xscale("log")
    ax.axvline(1, color=INK, lw=1.4, zorder=0)
    for i, row in enumerate(found.values()):
        for name, ratio in row.items():
            marker, color = LOOKS[name]
            ax.plot(ratio, i, marker, color=color, mec=PAGE, mew=0.6, ms=6.5)
    ax.set_ylim(len(found) - 0.5, -2)
    for x, (name, (marker, color)) in zip((0.06, 0.22, 0.5), LOOKS.items(), strict=True):
        ax.plot(x, -1.3, marker, color=color, ms=6)
        say(ax, 1.08 * x, -1.3, name, color)
    ax.set_xlim(0.05, 2)
    ticks(ax, "x", [0.05, 0.1, 0.2, 0.5, 1, 2])
    ax.set_title("Time of a step beside other libraries")
    ax.set_xlabel("ours over theirs; left of 1 ours is faster", loc="left")
    return fig
