"""Variance at equal time, with ten latents and six evaluations: ratios to leave-one-out, from the arena's files."""

import math
from statistics import fmean

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import INK, MUTED, PAGE, UNBIASED, figure, panels, rows, say, ticks
from sampleprop.lab.arena import records, rule

SHOWN = (
    "ScoreFunction",
    "ARMS",
    "DisARM",
    "ARM",
    "BitFlip",
    "UGC",
    "REBAR(coupled=True), trained",
    "REBAR, trained",
    "RELAX, trained",
    "MuProp",
    "DoubleCV, trained",
    "RODEO, trained",
    "ScoreFunction(baseline=Constant(0))",
)


def numbers() -> Data:
    """Variance, and variance times time with its least and largest ratio: geometric means over the seeds."""
    found = {}
    for each in rule.competitors(records.read_all(records.STANDARD)):
        cells = [cell for (name, _, budget), cell in each.cells.items() if (name, budget) == ("digits", 6)]
        if each.name in SHOWN and cells:
            variances, times = map(rule.by_variance, cells), list(map(rule.by_time, cells))
            logs = {"variance": fmean(variances), "product": fmean(times), "least": min(times), "largest": max(times)}
            found[each.name] = {name: float(f"{math.exp(log):.3g}") for name, log in logs.items()}
    ordered = sorted(found.items(), key=lambda item: item[1]["product"])
    return {"rows": dict(ordered)}


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
    say(ax, 5, -0.95, "full: variance × time", UNBIASED)
    say(ax, 27, -0.95, "empty: variance", MUTED)
    ax.set_xscale("log")
    ax.set_xlim(0.6, 130)
    ticks(ax, "x", [1, 3, 10, 30, 100])
    ax.set_title("Ten latents, six evaluations")
    ax.set_xlabel("ratio to leave-one-out; the bar is the range over five seeds", loc="left")
    return fig
