"""The methods of the article on one gradient: the mean and the spread of their estimates, along the exact one."""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical
from torch.optim import Adam

import sampleprop as sp
from pictures.measure import AnyEstimator, Data, bias, exact, gradients, measured
from pictures.style import BIASED, INK, UNBIASED, figure, panels, rows, say, ticks

PHI, VALUES = torch.tensor([0.5, -1.0, 1.2, 0.0]), torch.tensor([0.3, 1.7, -0.6, 0.9])
STEPS = 500
METHODS: dict[str, AnyEstimator] = {
    "score function": sp.ScoreFunction(6, baseline=sp.Constant(0.0)),
    "with leave-one-out": sp.ScoreFunction(6),
    "Gumbel-softmax": sp.GumbelSoftmax(6),
    "straight-through Gumbel": sp.StraightThroughGumbel(6),
    "REBAR": sp.REBAR(2),
    "RELAX": sp.RELAX(6, use_f=False),
}


def f(x: Tensor) -> Tensor:
    """Bends between the classes."""
    return 2 + torch.sin(3 * x @ VALUES) + (x @ VALUES).square()


def one_hot(logits: Tensor) -> Distribution:
    """Four classes."""
    return OneHotCategorical(logits=logits)


def numbers(replicates: int = 50_000) -> Data:
    """Six evaluations of f for each estimate; what learns was trained for 500 steps first."""
    right = exact(f, one_hot, PHI)
    found = {}
    for name, estimator in METHODS.items():
        torch.manual_seed(1)
        if estimator.learns:
            optimizer = Adam(estimator.parameters(), lr=0.01)
            for _ in range(STEPS):
                optimizer.zero_grad()
                sp.expect(f, one_hot(PHI.expand(64, -1).clone().requires_grad_()), estimator).mean().backward()
                optimizer.step()
        estimates = gradients(f, one_hot, PHI, estimator, replicates)
        along = estimates @ right / right.square().sum()
        found[name] = {
            "along": measured(along),
            "spread": round(along.std().item(), 3),
            "bias": bias(estimates, right),
            "unbiased": estimator.unbiased,
        }
    return found


def draw(data: Data) -> Figure:
    """A dot for the mean, a bar for one standard deviation on either side."""
    fig = figure(2.5)
    (ax,) = panels(fig, (1,))
    colors = [UNBIASED if found["unbiased"] else BIASED for found in data.values()]
    rows(ax, list(data), colors)
    ax.axvline(1, color=INK, lw=1.6, zorder=0)
    for i, (found, color) in enumerate(zip(data.values(), colors, strict=True)):
        mean, spread = found["along"]["mean"], found["spread"]
        ax.plot([mean - spread, mean + spread], [i, i], color=color, lw=5, alpha=0.35, solid_capstyle="butt")
        ax.plot(mean, i, "o", color=color, ms=7)
    say(ax, 1.02, -0.72, "exact", INK, clip_on=False)
    ticks(ax, "x", [-1, 0, 1, 2, 3])
    ax.set_title("Mean and spread of one estimate")
    ax.set_xlabel("along the exact gradient, in lengths of it", loc="left")
    return fig
