"""What the two classical estimators see of f: its heights, or its slopes at the samples."""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

import sampleprop as sp
from pictures.measure import AnyEstimator, Data, gradients, variance
from pictures.style import DOTTED, INK, MUTED, THIRD, TINT, UNBIASED, arrow, bare, figure, panels, say

MEAN, SCALE = 0.35, 0.95
SAMPLES = torch.tensor([-1.35, -0.55, 0.1, 0.95, 1.8])


def f(x: Tensor) -> Tensor:
    """A cost with a valley and some waves."""
    return 1.1 + 0.16 * x**2 - 0.32 * x + 0.28 * torch.sin(2.2 * x)


def numbers(replicates: int = 200_000) -> Data:
    """The variance of one estimate of the derivative with respect to the mean."""
    estimators: dict[str, AnyEstimator] = {"score": sp.ScoreFunction(1), "pathwise": sp.Pathwise()}
    found = {
        name: variance(
            gradients(f, lambda mean: Normal(mean, SCALE), torch.tensor(MEAN), estimator, replicates)[:, None]
        )
        for name, estimator in estimators.items()
    }
    return found | {"samples": len(SAMPLES), "ratio": round(found["score"]["mean"] / found["pathwise"]["mean"])}


def draw(data: Data) -> Figure:
    """The same five samples in both panels."""
    fig = figure(2.75)
    axes = panels(fig, sharex=True, sharey=True)
    x = torch.linspace(-2.6, 3.4, 300)
    density = Normal(MEAN, SCALE).log_prob(x).exp()
    for ax in axes:
        ax.fill_between(x, 0, 1.15 * density, color=TINT, lw=0)
        ax.plot(x, f(x), color=INK, lw=1.8)
        ax.set_ylim(0, 2.95)
        ax.set_xlim(-2.6, 3.4)
        bare(ax)
        ax.axhline(0, color=MUTED, lw=1)
        say(ax, MEAN, 0.12, r"$p_\varphi$", UNBIASED, ha="center", fontsize=11)
        say(ax, 2.75, f(torch.tensor(2.75)).item() + 0.33, "$f$", INK, fontsize=13)
    heights, slopes = axes
    heights.set_title("Score function: heights")
    tangents = torch.func.vmap(torch.func.grad(f))(SAMPLES)
    for at, height, slope in zip(SAMPLES.tolist(), f(SAMPLES).tolist(), tangents.tolist(), strict=True):
        heights.plot([at, at], [0, height], color=MUTED, lw=1, ls=DOTTED)
        heights.plot(at, height, "o", color=UNBIASED, ms=6)
        arrow(heights, (at, height), (at + 0.3 * height * (at - MEAN) / SCALE**2, height))
        half = 0.42 / (1 + slope**2) ** 0.5
        ends = [at - half, at + half], [height - half * slope, height + half * slope]
        slopes.plot(*ends, color=THIRD, lw=3, solid_capstyle="round")
        slopes.plot(at, height, "o", color=UNBIASED, ms=6)
    say(heights, -1.55, 2.72, r"$f(x)\,\nabla_\varphi\log p_\varphi(x)$", THIRD, fontsize=11)
    slopes.set_title("Pathwise: slopes")
    say(slopes, -1.55, 2.72, r"$f'(x)\,\nabla_\varphi x$", THIRD, fontsize=11)
    for ax, name in ((heights, "score"), (slopes, "pathwise")):
        ax.set_xlabel(f"variance of one estimate: {data[name]['mean']:.2f}", loc="left", labelpad=4)
    return fig
