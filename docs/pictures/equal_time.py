"""Variance at equal time, from the first table of its page: ratios to leave-one-out."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import INK, MUTED, PAGE, UNBIASED, figure, panels, rows, say, ticks

PAGE_OF_NUMBERS = Path(__file__).parents[1] / "results" / "equal_time.md"


def numbers() -> Data:
    """Variance, and variance times time with its least and largest ratio, with ten latents and six evaluations."""
    text = PAGE_OF_NUMBERS.read_text(encoding="utf-8")
    text = text.partition("## 10 latents, 6 evaluations")[2].partition("\n## ")[0]
    found = {}
    for line in text.splitlines():
        match = re.match(r"\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|", line)
        if match:
            keys = ("variance", "time", "product", "least", "largest")
            found[match[1]] = dict(zip(keys, map(float, match.groups()[1:]), strict=True))
    return {"rows": found}


def draw(data: Data) -> Figure:
    """A full dot with its range, and an empty one without the time."""
    fig = figure(3.4)
    (ax,) = panels(fig, (1,))
    found = data["rows"]
    rows(ax, list(found))
    ax.axvline(1, color=INK, lw=1.4, zorder=0)
    for i, row in enumerate(found.values()):
        ax.plot([row["least"], row["largest"]], [i, i], color=UNBIASED, lw=3, alpha=0.4, solid_capstyle="butt")
        ax.plot(row["variance"], i, "o", color=PAGE, mec=MUTED, mew=1.6, ms=6)
        ax.plot(row["product"], i, "o", color=UNBIASED, ms=7)
    ax.set_ylim(len(found) - 0.5, -1.3)
    say(ax, 1.05, -0.95, "leave-one-out", INK)
    say(ax, 6, -0.95, "full: variance × time", UNBIASED)
    say(ax, 27, -0.95, "empty: variance", MUTED)
    ax.set_xscale("log")
    ax.set_xlim(0.6, 130)
    ticks(ax, "x", [1, 3, 10, 30, 100])
    ax.set_title("Ten latents, six evaluations")
    ax.set_xlabel("ratio to leave-one-out; the bar is the range over five seeds", loc="left")
    return fig
