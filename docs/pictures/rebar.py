"""REBAR: three evaluations for one noise, and a variance that falls while η and τ are learned."""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Adam

import sampleprop as sp
from pictures.baseline import PHI, bits, f
from pictures.measure import Data, gradients, variance
from pictures.style import DOTTED, PAGE, PALE, THIRD, UNBIASED, figure, panels, say, ticks

STEPS, EVERY, FLOOR = 400, 20, 0.55
SOFT, CONDITIONAL = 0.7503, 0.4502  # the two relaxed points in the sketch


def curve(s: Tensor) -> Tensor:
    """A cost between 0 and 1, for the sketch."""
    return 2.1 - 2.2 * s + 1.7 * s * s + 0.35 * torch.sin(6 * s)


def numbers(replicates: int = 20_000) -> Data:
    """The variance of one estimate while Adam trains the control variate, on the cost of the article's page."""
    estimator = sp.REBAR(eta=0.0, temperature=2.0)
    optimizer = Adam(estimator.parameters(), lr=0.02)
    torch.manual_seed(1)
    shots: list[Data] = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.random.fork_rng():  # the training does not depend on the number of replicates
                found = variance(gradients(f, bits, PHI, estimator, replicates))
            learned = {"eta": round(estimator.eta.item(), 3), "tau": round(estimator.temperature.item(), 3)}
            shots.append({"step": step, "variance": found, **learned})
        optimizer.zero_grad()
        sp.expect(f, bits(PHI.expand(16, -1).clone().requires_grad_()), estimator).mean().backward()
        optimizer.step()
    first, last = shots[0]["variance"]["mean"], shots[-1]["variance"]["mean"]
    return {"shots": shots, "first": round(first, 1), "last": round(last, 1)}


def draw(data: Data) -> Figure:
    """Where f is evaluated; the variance by the step."""
    fig = figure(2.75)
    sketch, ax = panels(fig, (1, 1.05))
    s = torch.linspace(0, 1, 200)
    sketch.plot(s, curve(s), color=PALE, lw=2.2, zorder=1)
    sketch.set_xlim(-0.16, 1.2)
    sketch.set_ylim(FLOOR, 2.75)
    sketch.set_yticks([])
    sketch.spines["left"].set_visible(False)
    spots = ((CONDITIONAL, r"$f(\tilde s)$", THIRD, 7), (SOFT, "$f(s)$", THIRD, 7), (1.0, "$f(x)$", UNBIASED, 8))
    for x, name, color, size in spots:
        height = curve(torch.tensor(x)).item()
        sketch.plot([x, x], [FLOOR, height], color=color, lw=1, ls=DOTTED)
        sketch.plot(x, height, "o", color=color, ms=size)
        say(sketch, x + 0.03 * (x == 1), height + 0.24, name, color, ha="left" if x == 1 else "center", fontsize=12)
    sketch.plot(0, curve(torch.tensor(0.0)), "o", color=PAGE, mec=UNBIASED, mew=1.5, ms=7)
    sketch.set_xticks([0, CONDITIONAL, SOFT, 1], ["0", r"$\tilde s$", "$s$", "$x=1$"], fontsize=11)
    sketch.set_title("Three evaluations")
    say(sketch, 0.12, 2.55, "full: the sample", UNBIASED)
    say(sketch, 0.12, 2.35, "relaxed: the control variate", THIRD)
    shots = data["shots"]
    steps, found = [shot["step"] for shot in shots], [shot["variance"]["mean"] for shot in shots]
    ax.plot(steps, found, color=UNBIASED)
    ax.set_yscale("log")
    ax.set_ylim(0.8, 20)
    ax.set_xlim(0, STEPS)
    for k, dx, dy, side in ((0, 8, 1.25, "left"), (5, 12, 1.22, "left"), (len(shots) - 1, -2, 1.45, "right")):
        ax.plot(steps[k], found[k], "o", color=UNBIASED, ms=5.5, clip_on=False)
        text = rf"$\eta$ = {shots[k]['eta']:.2f}, $\tau$ = {shots[k]['tau']:.2f}"
        say(ax, steps[k] + dx, found[k] * dy, text, THIRD, ha=side)
    ticks(ax, "y", [1, 2, 5, 10])
    ax.set_title("Learning on the job")
    ax.set_xlabel(r"steps of Adam for $\eta$ and $\tau$", loc="left")
    ax.set_ylabel("variance", loc="top")
    return fig
