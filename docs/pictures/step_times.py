"""What a step costs beside the same estimator by hand, from the table of the page "Benchmarks"."""

from pathlib import Path

from matplotlib.figure import Figure

from pictures.measure import Data
from pictures.style import INK, MUTED, PAGE, UNBIASED, figure, panels, rows, say, ticks

PAGE_OF_NUMBERS = Path(__file__).parents[1] / "benchmarks.md"
SHOWN = (
    "ScoreFunction(1)",
    "ScoreFunction(4)",
    "Pathwise",
    "GumbelSoftmax",
    "StraightThroughGumbel",
    "DisARM",
    "ARMS",
    "REBAR",
    "REBAR(coupled)",
    "RELAX",
)


def numbers() -> Data:
    """The ratios on the VAE, the last column of the first table."""
    found = {}
    for line in PAGE_OF_NUMBERS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if cells[0] in SHOWN and cells[0] not in found:
            naive, tight = map(float, cells[-1].split(", "))
            found[cells[0]] = {"naive": naive, "tight": tight}
    return {
        "ratios": found,
        **{
            f"{end.__name__} {kind}": end(row[kind] for row in found.values())
            for kind in ("naive", "tight")
            for end in (min, max)
        },
    }


def draw(data: Data) -> Figure:
    """Two dots in each row, on either side of 1."""
    fig = figure(3.3)
    (ax,) = panels(fig, (1,))
    found = data["ratios"]
    rows(ax, list(found))
    ax.axvline(1, color=INK, lw=1.4, zorder=0)
    for i, ratio in enumerate(found.values()):
        ax.plot(ratio["tight"], i, "o", color=PAGE, mec=MUTED, mew=1.6, ms=6.5)
        ax.plot(ratio["naive"], i, "o", color=UNBIASED, ms=7)
    ax.set_ylim(len(found) - 0.5, -1.3)
    say(ax, 0.98, -0.95, "full: over naive code", UNBIASED, ha="right")
    say(ax, 1.02, -0.95, "empty: over tight code", MUTED)
    ax.set_xlim(0.5, 1.5)
    ticks(ax, "x", [0.5, 1, 1.5])
    ax.set_title("Time of a step on a VAE")
    ax.set_xlabel("over the same estimator by hand; left of 1 the library is faster", loc="left")
    return fig
