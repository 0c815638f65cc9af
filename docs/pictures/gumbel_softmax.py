"""Gumbel-softmax: where its samples lie, and what that does to the gradient."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import OneHotCategorical

import sampleprop as sp
from pictures.measure import Data, bias, exact, gradients, points, scaled, variance
from pictures.style import BIASED, DASHED, INK, MUTED, UNBIASED, bare, figure, say, ticks

LOGITS, SHOWN = torch.tensor([0.6, 0.0, -0.5]), (2.0, 0.5, 0.1)
PHI, VALUES = torch.tensor([0.5, -1.0, 1.2, 0.0]), torch.tensor([0.3, 1.7, -0.6, 0.9])
TEMPERATURES = np.geomspace(0.08, 4, 14)
CORNERS = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])


def f(x: Tensor) -> Tensor:
    """Bends between the classes."""
    return 2 + torch.sin(3 * x @ VALUES) + (x @ VALUES).square()


def numbers(replicates: int = 400_000) -> Data:
    """Samples at three temperatures; bias and variance, relative to the gradient, at fourteen."""
    right = exact(f, lambda phi: OneHotCategorical(logits=phi), PHI)
    biases, variances = [], []
    for temperature in TEMPERATURES:
        estimator = sp.GumbelSoftmax(1, temperature=float(temperature))
        found = gradients(f, lambda phi: OneHotCategorical(logits=phi), PHI, estimator, replicates)
        biases.append(bias(found, right))
        variances.append(scaled(variance(found), 1 / right.square().sum().item()))
    best = {}
    for samples in (1, 100):
        error = [b["mean"] ** 2 + v["mean"] / samples for b, v in zip(biases, variances, strict=True)]
        best[str(samples)] = round(float(TEMPERATURES[int(np.argmin(error))]), 1)
    q = OneHotCategorical(logits=LOGITS)
    clouds = [sp.GumbelSoftmax(350, temperature=each).propose(q).points.detach() for each in SHOWN]
    return {
        "clouds": [points(cloud @ torch.tensor(CORNERS, dtype=cloud.dtype)) for cloud in clouds],
        "temperatures": list(SHOWN),
        "bias": biases,
        "variance": variances,
        "best temperature": best,
    }


def draw(data: Data) -> Figure:
    """Three triangles and the error's parts."""
    fig = figure(2.3)
    grid = fig.add_gridspec(1, 4, width_ratios=(1, 1, 1, 1.6))
    for i, (temperature, cloud) in enumerate(zip(SHOWN, data["clouds"], strict=True)):
        ax = fig.add_subplot(grid[i])
        bare(ax)
        ax.set_aspect("equal")
        ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=MUTED, lw=1)
        ax.plot(*np.array(cloud).T, "o", color=UNBIASED, ms=2.6, alpha=0.5, mew=0, clip_on=False)
        ax.set_xlim(-0.07, 1.07)
        ax.set_ylim(-0.12, 0.9)
        ax.set_anchor("S")
        ax.set_title(f"$\\tau = {temperature:g}$", fontsize=13, fontweight="normal", loc="center", pad=8)
        if i == 1:
            say(ax, 0.5, -0.2, "a corner is a class", MUTED, ha="center", clip_on=False)
    ax = fig.add_subplot(grid[3])
    squared = np.array([max(each["mean"], 1e-3) ** 2 for each in data["bias"]])
    noise = np.array([each["mean"] for each in data["variance"]])
    ax.loglog(TEMPERATURES, noise, color=UNBIASED)
    ax.loglog(TEMPERATURES, squared, color=BIASED)
    for samples in (1, 100):
        error = squared + noise / samples
        ax.loglog(TEMPERATURES, error, color=INK, lw=1.1, ls=DASHED)
        ax.plot(TEMPERATURES[error.argmin()], error.min(), "o", color=INK, ms=4.5)
    ax.set_title("Squared error")
    ax.set_xlabel(r"temperature $\tau$", loc="left")
    ticks(ax, "x", [0.1, 0.5, 2])
    ax.set_ylim(2e-3, 90)
    ticks(ax, "y", [0.01, 0.1, 1, 10])
    say(ax, 4.4, 1.35, "1 sample", INK, ha="right", fontsize=8.5)
    say(ax, 0.078, 0.045, "100 samples", INK, fontsize=8.5)
    say(ax, 0.14, 34, "variance", UNBIASED)
    say(ax, 1.1, 0.022, "bias²", BIASED)
    return fig
