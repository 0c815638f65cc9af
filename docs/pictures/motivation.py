"""One coin: the expected cost as a function of φ, and ten thousand estimates of its slope."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.distributions import Bernoulli

import sampleprop as sp
from pictures.measure import Data, gradients, measured, variance
from pictures.style import INK, PALE, TINT, UNBIASED, figure, panels, say, ticks

PHI = 0.5


def numbers(replicates: int = 10_000) -> Data:
    """A cost of 3 for heads and 1 for tails; four samples for each estimate."""
    p = torch.sigmoid(torch.tensor(PHI)).item()
    found = gradients(
        lambda x: 1 + 2 * x, lambda phi: Bernoulli(logits=phi), torch.tensor(PHI), sp.ScoreFunction(4), replicates
    )
    values, counts = torch.unique(torch.round(found, decimals=3), return_counts=True)
    return {
        "estimates": replicates,
        "exact": round(2 * p * (1 - p), 3),
        "mean": measured(found),
        "variance": variance(found[:, None]),
        "spread": round(found.std().item(), 3),
        "values": [round(value, 3) for value in values.tolist()],
        "counts": (counts / replicates).tolist(),
    }


def draw(data: Data) -> Figure:
    """The curve with its tangent; the histogram with its mean."""
    fig = figure(2.5)
    left, right = panels(fig)
    phi = np.linspace(-4, 4, 200)
    value = 1 + 2 / (1 + np.exp(-phi))
    left.plot(phi, value, color=INK)
    at = 1 + 2 / (1 + np.exp(-PHI))
    left.plot(phi[90:140], at + data["exact"] * (phi[90:140] - PHI), color=UNBIASED, lw=2)
    left.plot(PHI, at, "o", color=UNBIASED, ms=6)
    say(left, 1.3, at - 0.1, f"slope {data['exact']:.3f}", UNBIASED)
    ticks(left, "x", [-4, 0, 4])
    ticks(left, "y", [1, 2, 3])
    left.set_title("The expected cost")
    left.set_xlabel(r"logit $\varphi$ of heads", loc="left")
    right.vlines(data["values"], 0, data["counts"], color=TINT, lw=14)
    right.plot(data["values"], data["counts"], "o", color=UNBIASED, ms=4)
    right.axvline(data["exact"], color=INK, lw=1.4, ymax=0.86)
    say(right, data["exact"] + 0.03, max(data["counts"]) * 1.06, f"mean {data['mean']['mean']:.3f}", INK)
    right.set_ylim(0, max(data["counts"]) * 1.2)
    right.set_xlim(-0.25, 1.05)
    ticks(right, "x", [0, 0.5, 1])
    right.set_yticks([])
    right.spines["left"].set_color(PALE)
    right.spines["left"].set_visible(False)
    right.set_title("Estimates of the slope")
    right.set_xlabel(f"one estimate of four samples; spread {data['spread']:.3f}", loc="left")
    return fig
