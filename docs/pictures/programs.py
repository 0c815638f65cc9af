"""Programs: each variable is charged with the costs that follow it, so that less noise reaches it."""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor
from torch.distributions import Bernoulli, Independent

import sampleprop as sp
from pictures.measure import Data, scaled, variance
from pictures.style import BIASED, INK, MUTED, PAGE, PALE, THIRD, UNBIASED, arrow, bare, figure, panels, say, ticks

STEPS = [2, 4, 8, 16, 32]


def cost(x: Tensor) -> Tensor:
    """Of one step."""
    return (x - 0.45).square()


@sp.program
def walk(phi: Tensor) -> Tensor:
    """As many steps as φ has columns, each with a bit and its cost."""
    for logit in phi.unbind(-1):
        sp.charge(cost(sp.sample(Bernoulli(logits=logit), sp.ScoreFunction(1))))
    return torch.zeros(phi.shape[0])


def numbers(replicates: int = 20_000) -> Data:
    """The variance of one estimate by the number of steps, times its samples of everything."""

    def rows(steps: int) -> Tensor:
        return torch.zeros(replicates, steps, requires_grad=True)

    def whole(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x).sum(-1), Independent(Bernoulli(logits=phi), 1), sp.ScoreFunction(1))

    def estimate(function, steps: int) -> Data:  # type: ignore[no-untyped-def]
        phi = rows(steps)
        (found,) = torch.autograd.grad(function(phi).sum(), phi)
        return variance(found)

    return {
        "steps": STEPS,
        "all costs": [estimate(whole, steps) for steps in STEPS],
        "the costs that follow": [estimate(walk, steps) for steps in STEPS],
        "and 2 particles": [scaled(estimate(walk.using(particles=2), steps), 2) for steps in STEPS],
    }


def draw(data: Data) -> Figure:
    """A chain of three variables; three lines on logarithmic axes."""
    fig = figure(2.75)
    chain, ax = panels(fig, (1, 1.05))
    bare(chain)
    chain.set_xlim(-0.2, 10)
    chain.set_ylim(0, 6.4)
    chain.set_aspect("equal")
    chain.set_title("Each is charged with what follows")
    for i in range(3):
        x = 1 + 3.2 * i
        chain.add_patch(Circle((x, 3.6), 0.62, fc=PAGE, ec=UNBIASED, lw=1.6))
        say(chain, x, 3.56, f"$x_{i + 1}$", INK, ha="center", fontsize=12)
        say(chain, x + 1.2, 1.3, f"$c_{i + 1}$", INK, ha="center", fontsize=12)
        arrow(chain, (x + 0.35, 3.05), (x + 1.0, 1.75), MUTED)
        if i < 2:
            arrow(chain, (x + 0.62, 3.6), (x + 2.55, 3.6), MUTED)
        chain.plot([x + 0.75, 9.0], [0.75 - 0.28 * i] * 2, color=THIRD, lw=2.2, solid_capstyle="butt")
        say(chain, 9.1, 0.75 - 0.28 * i, "", THIRD)
    say(chain, 1.0, 5.2, "violet: the costs that $x_1$, $x_2$ and $x_3$ pay", THIRD, fontsize=8.5)
    names = (("all costs", BIASED), ("the costs that follow", UNBIASED), ("and 2 particles", THIRD))
    colors = {"all costs": MUTED, "the costs that follow": UNBIASED, "and 2 particles": THIRD}
    for name, _ in names:
        values = [each["mean"] for each in data[name]]
        ax.loglog(data["steps"], values, "o-", color=colors[name], ms=4)
        say(ax, 34, values[-1], name, colors[name], fontsize=8.5)
    ax.set_xlim(1.8, 260)
    ticks(ax, "x", data["steps"], [str(step) for step in data["steps"]])
    ticks(ax, "y", [0.01, 1, 100], ["0.01", "1", "100"])
    ax.spines["bottom"].set_color(PALE)
    ax.set_title("Variance × samples")
    ax.set_xlabel("steps of the program", loc="left")
    return fig
