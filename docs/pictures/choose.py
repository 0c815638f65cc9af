"""Which estimator? Bias against variance for every estimator that takes the digits, at equal evaluations."""

import math

from matplotlib.figure import Figure

import sampleprop as sp
from pictures.measure import Data
from pictures.style import BIASED, TINT, UNBIASED, figure, panels, say, ticks
from sampleprop.lab.measure import problems

EVALUATIONS = 20
LABELS = {"ARMS": (0.42, 0.58), "ScoreFunction": (3.0, 0.68), "RaoBlackwellized": (17, 0.52), "SPSA": (112, 0.36)}
TIMED = {"LocalExpectation": (0.75, 0.68), "REBAR": (4.6, 0.56), "UnorderedSet": (30, 0.46), "SPSA": (112, 0.36)}
BESIDE = {"ReinMax": 0.0, "StraightThroughGumbel": 0.04, "StraightThrough": 0.06, "GumbelSoftmax": -0.07}


def numbers(replicates: int = 1024) -> Data:
    """`compare` with at most twenty evaluations; the variances are relative to the squared gradient."""
    problem = problems.find("digits")()
    estimators = [entry() for entry in sp.REGISTER]
    found = sp.compare(
        problem.f, problem.dist, estimators, budget=EVALUATIONS, exact=problem.exact, replicates=replicates
    )
    assert found.gradient is not None
    squared = found.gradient**2
    rows = {
        row.name: {
            "variance": {"mean": row.variance / squared, "error": row.variance_error / squared},
            "bias": row.bias,
            "biased": row.biased,
            "milliseconds": row.milliseconds,
        }
        for row in found.rows
    }
    return {"evaluations": EVALUATIONS, "estimators": len(rows), "rows": rows}


def width(row: Data, timed: bool) -> float:
    """Where a row stands: its variance, or its variance times its time."""
    return float(row["variance"]["mean"] * (row["milliseconds"] if timed else 1))


def draw(data: Data) -> Figure:
    """Two panels with one axis of bias."""
    fig = figure(4.3)
    axes = panels(fig, sharey=True)
    found = data["rows"]

    for ax, timed, labels in zip(axes, (False, True), (LABELS, TIMED), strict=True):
        ax.axhspan(-0.1, 0.8, color=TINT, lw=0, alpha=0.55, zorder=0)
        spots: dict[str, tuple[float, float]] = {}
        placed: list[tuple[float, float]] = []
        for name, row in sorted(found.items(), key=lambda item: width(item[1], timed)):
            x, y = math.log10(width(row, timed)), 0.03
            if row["biased"]:
                y = math.log10(100 * row["bias"])
            else:
                while any(abs(x - a) < 0.085 and abs(y - b) < 0.055 for a, b in placed):
                    y += 0.06
                placed.append((x, y))
            spots[name] = (10**x, y)
            ax.plot(10**x, y, "o", color=BIASED if row["biased"] else UNBIASED, ms=6, mew=0, alpha=0.9)
        ax.set_xscale("log")
        ax.set_xlim(0.07, 380)
        ticks(ax, "x", [0.1, 1, 10, 100])
        ax.set_ylim(-0.1, 2.0)
        ax.set_title("Equal time" if timed else "Equal evaluations")
        for name, (x, y) in labels.items():
            at, height = spots[name]
            ax.plot([at, x], [height + 0.035, y - 0.04], color=UNBIASED, lw=0.8)
            say(ax, x, y, name, UNBIASED, fontsize=8.5, ha="center")
        for name, shift in BESIDE.items():
            at, height = spots[name]
            say(ax, at * 1.28, height + shift, name, BIASED, fontsize=8.5)
    axes[0].set_xlabel("variance of an estimate", loc="left")
    axes[1].set_xlabel("variance × milliseconds", loc="left")
    axes[0].set_yticks([0.35, 1, math.log10(30), 2], ["no bias\nseen", "10 %", "30 %", "100 %"])
    axes[0].set_ylabel("bias", loc="top")
    return fig
