"""Straight-through: two graphs, one forward and one backward, and the bias that follows for four costs."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

import sampleprop as sp
from pictures.measure import Data, bias, exact, gradients
from pictures.style import BIASED, MUTED, PAGE, THIRD, TINT, UNBIASED, WARM, arrow, bare, figure, panels, rows, say

PHI, WEIGHTS = torch.tensor([0.4, -0.9, 1.3]), torch.tensor([1.0, -2.0, 0.5])
COSTS = {
    "linear in each bit": lambda x: x[..., 0] * x[..., 1] - 2 * x[..., 1] * x[..., 2] + x[..., 0],
    "quadratic": lambda x: (x @ WEIGHTS).square(),
    "an exponential": lambda x: (x @ WEIGHTS).exp(),
    "a sine": lambda x: torch.sin(2 * x @ WEIGHTS),
}
LOOKS = {
    "ReinMax": ("D", THIRD, THIRD),
    "StraightThrough": ("o", BIASED, BIASED),
    "StraightThroughGumbel": ("s", BIASED, PAGE),
    "GumbelSoftmax": ("^", MUTED, MUTED),
}


def numbers(replicates: int = 100_000) -> Data:
    """The bias of four estimators for four costs, relative to the gradient's length."""

    def bits(logits: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=logits), 1)

    return {
        cost: {
            name: bias(gradients(f, bits, PHI, getattr(sp, name)(), replicates), exact(f, bits, PHI)) for name in LOOKS
        }
        for cost, f in COSTS.items()
    }


def box(ax: Axes, x: float, y: float, text: str, color: str, fill: str = "none") -> None:
    """A node of the graph."""
    style = "round,pad=0,rounding_size=.35"
    ax.add_patch(FancyBboxPatch((x - 0.95, y - 0.75), 1.9, 1.5, style, fc=fill, ec=color, lw=1.4))
    say(ax, x, y - 0.05, text, ha="center", fontsize=12.5)


def draw(data: Data) -> Figure:
    """A graph with two ways round, and rows of dots."""
    fig = figure(2.75)
    graph, ax = panels(fig, (1, 1.12))
    bare(graph)
    graph.set_xlim(0, 10)
    graph.set_ylim(0, 10)
    graph.set_title("Two graphs in one")
    box(graph, 1, 5, r"$\varphi$", MUTED)
    box(graph, 5, 7.6, "$h$", UNBIASED, TINT)
    box(graph, 5, 2.4, "$s$", BIASED, WARM)
    box(graph, 9, 5, "$f$", MUTED)
    for start, end in (((1.95, 5.35), (4.0, 7.4)), ((6.0, 7.4), (8.05, 5.4))):
        arrow(graph, start, end, UNBIASED, lw=1.8, mutation_scale=11, shrinkA=0)
    for start, end in (((8.05, 4.6), (6.0, 2.6)), ((4.0, 2.6), (1.95, 4.65))):
        arrow(graph, start, end, BIASED, lw=1.8, mutation_scale=11, shrinkA=0)
    say(graph, 5, 9.2, "forward: a true sample", UNBIASED, ha="center")
    say(graph, 5, 0.8, "backward: something smooth", BIASED, ha="center")
    say(graph, 5, 5, "the slope of $f$\nis taken at $h$", MUTED, ha="center", fontsize=8.5, linespacing=1.3)
    rows(ax, list(data))
    for i, found in enumerate(data.values()):
        for name, (marker, edge, fill) in LOOKS.items():
            percent = 100 * found[name]["mean"]
            ax.plot(percent, i, marker, color=edge, mfc=fill, ms=6.5, mew=1.5, clip_on=False, zorder=3)
    ax.set_ylim(len(data) - 0.55, -1.45)
    ax.tick_params(axis="y", pad=9)
    ax.set_xlim(0, 262)
    ax.set_title("Bias by the cost")
    ax.set_xlabel("bias, % of the gradient's length", loc="left")
    places = ((4, -1.22), (122, -1.22), (122, -0.68), (4, -0.68))
    for (name, (marker, edge, fill)), (x, y) in zip(LOOKS.items(), places, strict=True):
        ax.plot(x, y, marker, color=edge, mfc=fill, ms=5.5, mew=1.4)
        say(ax, x + 9, y, name, edge, fontsize=8.5)
    return fig
