"""The order of the arena: the unbiased by their score, with the interval of the bootstrap, from its files."""

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import INK, MUTED, UNBIASED, figure, panels, rows, say, ticks
from sampleprop.lab.arena import records, rule


def numbers() -> Data:
    """Score, interval and number of problems of each unbiased estimator that has a place."""
    found = {
        each.competitor.name: {
            "score": float(f"{each.score:.3g}"),
            "interval": [float(f"{end:.3g}") for end in each.interval],
            "problems": each.problems,
        }
        for each in rule.standings(records.read_all(records.STANDARD))
        if each.competitor.group == "unbiased" and each.rank
    }
    return {"rows": found}


def draw(data: Data) -> Figure:
    """A dot with its interval in each row; leave-one-out is the line."""
    found = data["rows"]
    fig = figure(0.9 + 0.185 * len(found))
    (ax,) = panels(fig, (1,))
    rows(ax, list(found), [INK if name == "ScoreFunction" else MUTED for name in found])
    ax.axvline(1, color=INK, lw=1.4, zorder=0)
    beside = ax.get_yaxis_transform()
    for i, row in enumerate(found.values()):
        ax.plot(row["interval"], [i, i], color=UNBIASED, lw=3, alpha=0.35, solid_capstyle="butt")
        ax.plot(row["score"], i, "o", color=UNBIASED, ms=5.5)
        say(ax, 1.05, i, f"{row['problems']}", MUTED, fontsize=8.5, ha="right", transform=beside)
    ax.set_ylim(len(found) - 0.5, -1.6)
    say(ax, 1.07, -1.05, "leave-one-out", INK)
    say(ax, 1.05, -1.05, "problems", MUTED, fontsize=8.5, ha="right", transform=beside)
    ax.set_xscale("log")
    ax.set_xlim(0.009, 110)
    ticks(ax, "x", [0.01, 0.1, 1, 10, 100])
    ax.set_title("Variance at equal evaluations, over the suite")
    ax.set_xlabel("score; the bar holds 90 % of the resamples", loc="left")
    return fig
