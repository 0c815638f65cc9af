"""RELAX on a cost that can only be looked up: the critic spreads the three values over the simplex."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical
from torch.optim import Adam

import sampleprop as sp
from pictures.gumbel_softmax import CORNERS
from pictures.measure import Data, gradients, points, scaled, variance
from pictures.style import DASHED, MUTED, THIRD, UNBIASED, bare, figure, say, ticks

PHI, TABLE = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([1.0, 4.0, 2.2])
STEPS, EVERY, SHOWN, FINE = 800, 20, (60, 800), 24
SIMPLEX = torch.tensor([(i, j, FINE - i - j) for i in range(FINE + 1) for j in range(FINE + 1 - i)]) / FINE


def f(x: Tensor) -> Tensor:
    """A look-up, without a derivative anywhere."""
    return TABLE[x.argmax(-1)]


def one_hot(logits: Tensor) -> Distribution:
    """Three classes."""
    return OneHotCategorical(logits=logits)


def numbers(replicates: int = 40_000) -> Data:
    """The variance while the critic learns; the critic itself at two of the steps."""
    torch.manual_seed(0)
    estimator = sp.RELAX(use_f=False)
    optimizer = Adam(estimator.parameters(), lr=0.02)
    assert estimator.quadratic is not None
    steps, found, critics = [], [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.random.fork_rng():  # the training does not depend on the number of replicates
                found.append(variance(gradients(f, one_hot, PHI, estimator, replicates)))
            steps.append(step)
        if step in SHOWN:
            with torch.no_grad():
                critics.append(points(estimator.quadratic(SIMPLEX)))
        optimizer.zero_grad()
        sp.expect(f, one_hot(PHI.expand(64, -1).clone().requires_grad_()), estimator).mean().backward()
        optimizer.step()
    none = sp.ScoreFunction(1, baseline=sp.Constant(0.0))
    return {
        "steps": steps,
        "variance": found,
        "critics": critics,
        "no baseline": variance(gradients(f, one_hot, PHI, none, replicates)),
        "leave-one-out": scaled(variance(gradients(f, one_hot, PHI, sp.ScoreFunction(2), replicates)), 2),
        "first": round(found[0]["mean"], 1),
        "last": round(found[-1]["mean"], 2),
    }


def draw(data: Data) -> Figure:
    """Contours of the critic on the simplex; the variance by the step."""
    fig = figure(2.45)
    grid = fig.add_gridspec(1, 3, width_ratios=(1, 1, 1.7))
    for i, (step, critic) in enumerate(zip(SHOWN, data["critics"], strict=True)):
        ax = fig.add_subplot(grid[i])
        bare(ax)
        ax.set_aspect("equal")
        ax.set_anchor("S")
        across, up = (SIMPLEX.numpy() @ CORNERS).T
        levels = np.arange(-2, 8, 0.5)
        ax.tricontour(across, up, critic, levels=levels, colors=THIRD, linewidths=1.1)
        ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=MUTED, lw=1)
        for corner, value, top in zip(CORNERS, TABLE.tolist(), (False, False, True), strict=True):
            ax.plot(*corner, "o", color=UNBIASED, ms=7, clip_on=False)
            place = (corner[0] + 0.1, corner[1] + 0.02) if top else (corner[0], corner[1] - 0.13)
            say(ax, *place, f"$f$ = {value:g}", UNBIASED, ha="left" if top else "center")
        ax.set_xlim(-0.14, 1.14)
        ax.set_ylim(-0.2, 0.93)
        ax.set_title(f"critic, step {step}", pad=6)
    ax = fig.add_subplot(grid[2])
    found = [each["mean"] for each in data["variance"]]
    ax.semilogy(data["steps"], found, color=THIRD)
    ax.set_title("Variance")
    ax.set_xlabel("steps of Adam", loc="left")
    for name in ("no baseline", "leave-one-out"):
        ax.axhline(data[name]["mean"], color=MUTED, lw=1.1, ls=DASHED)
        say(ax, STEPS, data[name]["mean"] * 1.16, name, MUTED, ha="right", va="bottom", fontsize=8.5)
    say(ax, 420, found[21] * 1.5, "RELAX", THIRD, va="bottom")
    ax.set_xlim(0, STEPS)
    ticks(ax, "y", [0.1, 1, 10])
    return fig
