"""Why the score function's variance is high: the mean of f, which a baseline takes away, and many variables."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

import sampleprop as sp
from pictures.measure import Data, gradients, scaled, variance
from pictures.style import BIASED, DASHED, DOTTED, MUTED, THIRD, UNBIASED, figure, panels, say, ticks

WEIGHTS, PHI = torch.tensor([1.0, 2.0, -1.5, 0.8]), torch.tensor([0.4, -0.9, 1.3, 0.2])
BASELINES = [0.5 * i for i in range(13)]
COUNTS = [2, 4, 8, 16, 32, 64, 128]


def bits(logits: Tensor) -> Distribution:
    """Independent bits."""
    return Independent(Bernoulli(logits=logits), 1)


def f(x: Tensor) -> Tensor:
    """The cost of the article's page."""
    return 3 + 2 * torch.sin(x @ WEIGHTS)


def additive(x: Tensor) -> Tensor:
    """One term for each variable."""
    return (x - 0.45).square().sum(-1)


def numbers(replicates: int = 60_000) -> Data:
    """Variance × evaluations by the baseline, and by the number of variables."""
    few = replicates // 3
    none, two = sp.ScoreFunction(1), sp.ScoreFunction(2)
    return {
        "mean of f": round(sp.expect(f, bits(PHI), sp.Enumerate()).item(), 3),
        "by baseline": [
            variance(gradients(f, bits, PHI, sp.ScoreFunction(1, baseline=sp.Constant(b)), replicates))
            for b in BASELINES
        ],
        "leave-one-out": scaled(variance(gradients(f, bits, PHI, two, replicates)), 2),
        "no baseline by count": [variance(gradients(additive, bits, torch.zeros(d), none, few)) for d in COUNTS],
        "leave-one-out by count": [
            scaled(variance(gradients(additive, bits, torch.zeros(d), two, few)), 2) for d in COUNTS
        ],
    }


def slope(values: list[float]) -> float:
    """The power with which the values grow with the number of variables, without the smallest."""
    return float(np.polyfit(np.log(COUNTS[2:]), np.log(values[2:]), 1)[0])


def draw(data: Data) -> Figure:
    """A parabola; two straight lines on logarithmic axes."""
    fig = figure(2.7)
    left, right = panels(fig)
    found = [each["mean"] for each in data["by baseline"]]
    fine = np.linspace(0, 6, 200)
    left.plot(fine, np.polyval(np.polyfit(BASELINES, found, 2), fine), color=UNBIASED)
    left.plot(BASELINES, found, "o", color=UNBIASED, ms=4)
    left.set_ylim(0, 13)
    left.set_xlim(-0.2, 6.2)
    left.axvline(data["mean of f"], color=MUTED, lw=1, ls=DOTTED, ymax=0.62)
    say(left, data["mean of f"], 8.6, "mean of $f$", MUTED, ha="center")
    left.axhline(data["leave-one-out"]["mean"], color=THIRD, lw=1.4, ls=DASHED)
    say(left, -0.1, data["leave-one-out"]["mean"] - 0.7, "leave-one-out", THIRD)
    left.plot(0, found[0], "o", color=BIASED, ms=7)
    say(left, 0.25, found[0] + 0.25, "no baseline", BIASED)
    left.set_title("The value that is subtracted")
    left.set_xlabel("baseline $b$", loc="left")
    left.set_ylabel("variance × evaluations", loc="top")
    for key, color in (("no baseline", BIASED), ("leave-one-out", THIRD)):
        values = [each["mean"] for each in data[f"{key} by count"]]
        right.loglog(COUNTS, values, "o-", color=color, ms=4)
        place = (30, values[5] * 1.2, "right") if color is BIASED else (34, values[4] * 0.35, "left")
        say(right, *place[:2], f"{key}: $D^{{{slope(values):.0f}}}$", color, ha=place[2])
    right.set_title("The number of variables")
    right.set_xlabel("variables $D$ in a sum of $D$ terms", loc="left")
    ticks(right, "x", [2, 8, 32, 128])
    right.set_xlim(1.7, 300)
    ticks(right, "y", [1e-2, 1, 1e2, 1e4], ["0.01", "1", "100", "10,000"])
    return fig
