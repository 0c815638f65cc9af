"""Five hundred estimates of one real gradient by each of four estimators, around the exact one."""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Bernoulli, Independent

import sampleprop as sp
from pictures.measure import AnyEstimator, Data, measured, points, variance
from pictures.style import BIASED, INK, PALE, UNBIASED, bare, figure, panels
from sampleprop.lab.measure import problems

EVALUATIONS = 20
ESTIMATORS: dict[str, AnyEstimator] = {
    "Score function": sp.ScoreFunction(EVALUATIONS, baseline=sp.Constant(0.0)),
    "Leave-one-out": sp.ScoreFunction(EVALUATIONS),
    "Gumbel-softmax": sp.GumbelSoftmax(EVALUATIONS),
    "Straight-through": sp.StraightThrough(EVALUATIONS),
}
FOUND = ("no bias, much noise", "no bias, little noise", "less noise, a bias", "less noise, more bias")


def numbers(replicates: int = 500) -> Data:
    """Along the exact gradient, and across it in the direction in which straight-through is off."""
    problem = problems.find("digits")()
    logits = problem.dist.base_dist.logits.detach()  # type: ignore[attr-defined]

    def gradient(estimator: AnyEstimator) -> Tensor:
        leaf = logits.clone().requires_grad_()
        value = sp.expect(problem.f, Independent(Bernoulli(logits=leaf), 1), estimator)
        found: Tensor = torch.autograd.grad(value.sum(), leaf)[0]
        return found.flatten()

    right = gradient(sp.Enumerate())
    unit = right / right.norm()
    estimates = {
        name: torch.stack([gradient(estimator) for _ in range(replicates)]) / right.norm()
        for name, estimator in ESTIMATORS.items()
    }
    off = estimates["Straight-through"].mean(0) - unit
    across = off - (off @ unit) * unit
    across /= across.norm()
    return {
        "estimates": replicates,
        "evaluations": EVALUATIONS,
        "clouds": {
            name: {
                "points": points(torch.stack([found @ unit, found @ across], -1)),
                "along": measured(found @ unit),
                "variance": variance(found),
            }
            for name, found in estimates.items()
        },
    }


def draw(data: Data) -> Figure:
    """Four clouds and the cross at the same place in each."""
    fig = figure(2.25)
    for ax, (name, cloud), what in zip(panels(fig, (1,) * 4), data["clouds"].items(), FOUND, strict=True):
        color = BIASED if "a bias" in what or "more bias" in what else UNBIASED
        bare(ax)
        ax.set_aspect("equal")
        ax.set_xlim(0, 2)
        ax.set_ylim(-1, 1)
        inside = [(x, y) for x, y in cloud["points"] if 0 < x < 2 and -1 < y < 1]
        ax.plot(*zip(*inside, strict=True), "o", color=color, ms=2.6, alpha=0.45, mew=0)
        ax.axhline(0, color=PALE, lw=0.8, zorder=0)
        ax.axvline(1, color=PALE, lw=0.8, zorder=0)
        ax.plot(1, 0, "+", color=INK, ms=14, mew=2.4, zorder=5)
        ax.set_title(name, loc="center", pad=6)
        ax.set_xlabel(what, color=color, fontsize=9, labelpad=3)
    return fig
