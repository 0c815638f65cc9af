"""Which estimator? Bias against variance for every estimator that takes the digits, at equal evaluations."""

import math
from statistics import fmean

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import BIASED, TINT, UNBIASED, figure, panels, say, ticks
from sampleprop.diagnostics.measuring.statistics import THRESHOLD
from sampleprop.lab.arena import records, rule

EVALUATIONS = 20
LABELS = {
    "ARMS": (0.7, 0.62),
    "LocalExpectation": (0.36, 0.42),
    "ScoreFunction": (1.6, 0.72),
    "REBAR": (4.0, 0.6),
    "RaoBlackwellized": (17, 0.4),
    "SPSA": (150, 0.36),
}
BESIDE = {"ReinMax": 0.0, "StraightThroughGumbel": 0.04, "StraightThrough": 0.06, "GumbelSoftmax": -0.07}


def numbers() -> Data:
    """From the files of the arena, of what is trained where something learns: geometric means over the seeds.

    The variances are relative to the squared gradient.
    """
    rows = {}
    for each in rule.competitors(records.read_all(records.STANDARD)):
        cells = [cell for (name, _, budget), cell in each.cells.items() if (name, budget) == ("digits", EVALUATIONS)]
        if cells and each.record.facts["register"] and each.trained == bool(each.record.facts["learns"]):
            biased = any((cell.bias_z or 0.0) > THRESHOLD for cell in cells)
            logs = [math.log(cell.variance / cell.gradient**2) for cell in cells if cell.gradient]
            rows[each.record.name] = {
                "variance": float(f"{math.exp(fmean(logs)):.4g}"),
                "bias": float(f"{fmean(cell.bias or 0.0 for cell in cells):.4g}"),
                "biased": biased,
            }
    return {"evaluations": EVALUATIONS, "estimators": len(rows), "rows": rows}


def draw(data: Data) -> Figure:
    """One dot for each estimator; dots without a bias are stacked."""
    fig = figure(3.6)
    (ax,) = panels(fig, (1,))
    ax.axhspan(-0.1, 0.8, color=TINT, lw=0, alpha=0.55, zorder=0)
    spots: dict[str, tuple[float, float]] = {}
    placed: list[tuple[float, float]] = []
    for name, row in sorted(data["rows"].items(), key=lambda item: float(item[1]["variance"])):
        x, y = math.log10(row["variance"]), 0.03
        if row["biased"]:
            y = math.log10(100 * row["bias"])
        else:
            while any(abs(x - a) < 0.04 and abs(y - b) < 0.07 for a, b in placed):
                y += 0.075
            placed.append((x, y))
        spots[name] = (10**x, y)
        ax.plot(10**x, y, "o", color=BIASED if row["biased"] else UNBIASED, ms=6.5, mew=0, alpha=0.9)
    for name, (x, y) in LABELS.items():
        at, height = spots[name]
        ax.plot([at, x], [height + 0.04, y - 0.045], color=UNBIASED, lw=0.8)
        say(ax, x, y, name, UNBIASED, fontsize=8.5, ha="center")
    for name, shift in BESIDE.items():
        at, height = spots[name]
        say(ax, at * 1.12, height + shift, name, BIASED, fontsize=8.5)
    ax.set_xscale("log")
    ax.set_xlim(0.08, 300)
    ticks(ax, "x", [0.1, 1, 10, 100])
    ax.set_ylim(-0.1, 2.0)
    ax.set_yticks([0.35, 1, math.log10(30), 2], ["no bias\nseen", "10 %", "30 %", "100 %"])
    ax.set_ylabel("bias", loc="top")
    ax.set_title("Bias and noise at equal evaluations")
    ax.set_xlabel("variance of an estimate, in squared lengths of the gradient", loc="left")
    return fig
