"""Structures: the marginals of a random spanning tree, one sample, and four estimators on a subset."""

import torch
from matplotlib.figure import Figure

import sampleprop as sp
from pictures.measure import Data, measured
from pictures.style import INK, MUTED, PAGE, PALE, TINT, UNBIASED, bare, figure, panels, rows, ticks
from sampleprop.lab.measure import problems

PLACES = torch.tensor([[0.0, 0.2], [0.35, 0.95], [0.55, 0.35], [1.0, 0.75], [1.05, 0.05], [0.3, -0.25], [-0.3, 0.7]])
EDGES = torch.triu_indices(len(PLACES), len(PLACES), 1).T
ESTIMATORS = (sp.ScoreFunction(), sp.MuProp(), sp.DoubleCV(), sp.UnorderedSet(), sp.RaoBlackwellized())


def tree() -> sp.SpanningTree:
    """Near nodes are likely to be joined."""
    distance = (PLACES[EDGES[:, 0]] - PLACES[EDGES[:, 1]]).norm(dim=-1)
    return sp.SpanningTree(-5 * distance)


def numbers(samples: int = 20_000, replicates: int = 2048) -> Data:
    """How often each edge is in a sample, beside its exact probability; variances on the lab's problem `subset`."""
    q = tree()
    drawn = q.sample(torch.Size((samples,)))
    problem = problems.find("subset")()
    found = sp.compare(problem.f, problem.dist, ESTIMATORS, budget=16, exact=problem.exact, replicates=replicates)
    assert found.gradient is not None
    squared = found.gradient**2
    return {
        "samples": samples,
        "marginals": [round(p, 4) for p in q.mean.tolist()],
        "frequencies": [measured(drawn[:, i]) for i in range(len(EDGES))],
        "sample": drawn[0].int().tolist(),
        "evaluations": found.budget,
        "variance": {
            row.label.partition("(")[0]: {"mean": row.variance / squared, "error": row.variance_error / squared}
            for row in sorted(found.rows, key=lambda row: row.variance)
        },
    }


def draw(data: Data) -> Figure:
    """Edges as wide as they are likely; the edges of one tree; rows of dots."""
    fig = figure(2.5)
    marginals, sample, ax = panels(fig, (1, 1, 1.25))
    for panel, title in ((marginals, "Marginals"), (sample, "One sample")):
        bare(panel)
        panel.set_aspect("equal")
        panel.set_title(title)
        panel.margins(0.12)
        for (a, b), p, taken in zip(EDGES.tolist(), data["marginals"], data["sample"], strict=True):
            ends = PLACES[[a, b]].T
            if panel is marginals and p > 0.01:
                panel.plot(
                    *ends, color=UNBIASED, lw=0.4 + 6 * p, alpha=0.25 + 0.75 * p, solid_capstyle="round", zorder=1
                )
            if panel is sample:
                panel.plot(*ends, color=UNBIASED if taken else PALE, lw=2.4 if taken else 0.6, zorder=1 + taken)
        panel.plot(*PLACES.T, "o", color=PAGE, mec=INK, mew=1.5, ms=8, zorder=3)
    rows(ax, list(data["variance"]))
    for i, found in enumerate(data["variance"].values()):
        low, high = found["mean"] - 2 * found["error"], found["mean"] + 2 * found["error"]
        ax.plot([low, high], [i, i], color=UNBIASED, lw=2, solid_capstyle="butt")
        ax.plot(found["mean"], i, "o", color=UNBIASED, ms=6.5)
    ax.set_xscale("log")
    ax.set_title("Variance, a subset")
    ax.set_xlabel("in squared gradients", loc="left")
    ticks(ax, "x", [0.1, 1, 10])
    ax.tick_params(axis="x", labelcolor=MUTED)
    ax.spines["bottom"].set_color(TINT)
    return fig
