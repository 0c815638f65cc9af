"""The probability of a flood: what an accurate gradient costs, from a table of its page, by how rare the flood is."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import THIRD, UNBIASED, figure, panels, say, ticks

PAGE_OF_NUMBERS = Path(__file__).parents[1] / "results" / "extreme_values.md"
COLUMNS = ("crest", "score", "score, blind", "z of score", "importance", "importance, blind", "z of importance")


def numbers() -> Data:
    """The table of the crests, in years, below the section on the probability."""
    text = PAGE_OF_NUMBERS.read_text(encoding="utf-8").partition("\n| crest")[2].partition("\n\n")[0]
    rows = [re.findall(r"[\d.,]+(?:e\+\d+)?", line) for line in text.splitlines()[2:]]
    cells = [[float(cell.replace(",", "")) for cell in row] for row in rows]
    columns = dict(zip(COLUMNS, (list(column) for column in zip(*cells, strict=True)), strict=True))
    return {name: column for name, column in columns.items() if not name.startswith("z of ")}


def draw(data: Data) -> Figure:
    """Two lines on logarithmic axes, and two of percentages."""
    fig = figure(2.7)
    left, right = panels(fig)
    crests, largest = data["crest"], data["crest"][-1]
    for key, name, color in (("score", "score", UNBIASED), ("importance", "importance\nsampling", THIRD)):
        left.loglog(crests, data[key], "o-", color=color, ms=4)
        say(left, 1.5 * largest, data[key][-1], name, color, fontsize=8.5)
        right.semilogx(crests, data[f"{key}, blind"], "o-", color=color, ms=4)
        say(right, 1.5 * largest, data[f"{key}, blind"][-1], name, color, fontsize=8.5)
    for ax in (left, right):
        ax.set_xlim(7, 40 * largest)
        ticks(ax, "x", [10, 1000, 100_000], ["10", "1,000", "100,000"])
        ax.set_xlabel("years from one flood to the next", loc="left")
    ticks(left, "y", [1e3, 1e5, 1e7, 1e9], ["$10^3$", "$10^5$", "$10^7$", "$10^9$"])
    ticks(right, "y", [0, 50, 100])
    left.set_title("Evaluations for an error of 1 %")
    right.set_title("Estimates without a flood, %")
    return fig
