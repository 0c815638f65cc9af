"""Which estimator? Four questions. Each answer is a link to the estimator's page."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pictures.style import BIASED, INK, MUTED, TINT, UNBIASED, WARM, arrow, bare, figure, panels, say

Point = tuple[float, float]


def card(ax: Axes, place: Point, size: Point, lines: list[str], edge: str, fill: str, link: str | None = None) -> None:
    """A box with a name and a remark."""
    (x, y), (width, height) = place, size
    style = "round,pad=0,rounding_size=.9"
    box = FancyBboxPatch(place, width, height, style, fc=fill, ec=edge, lw=1.3)
    if link:
        box.set_url(f"estimators/{link}.html")
    ax.add_patch(box)
    for i, line in enumerate(lines):
        weight = "normal" if link or i else "bold"
        height_of_line = y + height / 2 + (i - (len(lines) - 1) / 2) * 2.15
        look: dict[str, Any] = {"fontsize": 8.3 if i else 9.2, "fontweight": weight, "ha": "center"}
        say(ax, x + width / 2, height_of_line, line, MUTED if i else INK, **look)


def question(ax: Axes, x: float, y: float, width: float, lines: list[str]) -> None:
    """A box in ink."""
    card(ax, (x, y), (width, 5.6), lines, INK, "none")


def answer(
    ax: Axes, x: float, y: float, name: str, note: str, link: str, width: float = 20, biased: bool = False
) -> None:
    """A box in the colour of its bias, with a link."""
    card(ax, (x, y), (width, 5.2), [name, note], *((BIASED, WARM) if biased else (UNBIASED, TINT)), link)


def line(ax: Axes, *points: Point) -> None:
    """A path with a head at its end."""
    ax.plot(*zip(*points, strict=True), color=MUTED, lw=1.2, solid_joinstyle="round", zorder=0)
    arrow(ax, points[-2], points[-1], MUTED, lw=1.2, shrinkA=0)


def word(ax: Axes, x: float, y: float, text: str, side: str = "left") -> None:
    """A label of a path."""
    say(ax, x, y, text, MUTED, fontsize=8.5, ha=side)


def draw(data: None = None) -> Figure:
    """Questions on the left, answers on the right."""
    fig = figure(4.7)
    (ax,) = panels(fig, (1,))
    bare(ax)
    ax.set_xlim(0, 70)
    ax.set_ylim(47, 0)
    question(ax, 1, 1, 20, ["Few joint states?", "up to some thousand"])
    answer(ax, 49, 1.2, "Enumerate", "exact, no noise", "enumerate")
    line(ax, (21, 3.8), (49, 3.8))
    word(ax, 22, 2.6, "yes")
    line(ax, (11, 6.6), (11, 11))
    word(ax, 11.7, 8.8, "no")
    question(ax, 1, 11, 20, ["Is x continuous?"])
    line(ax, (21, 13.8), (25, 13.8))
    word(ax, 21.6, 12.6, "yes")
    question(ax, 25, 11, 19, ["Is f smooth in x?", "no jumps, a derivative"])
    line(ax, (44, 12.6), (46.5, 12.6), (46.5, 10.8), (49, 10.8))
    word(ax, 44.35, 11.45, "yes")
    line(ax, (44, 15), (46.5, 15), (46.5, 17.2), (49, 17.2))
    word(ax, 44.35, 16.3, "no")
    answer(ax, 49, 8.2, "Pathwise", "nearly always best", "pathwise")
    answer(ax, 49, 14.6, "ScoreFunction(4)", "or MeasureValued", "scorefunction")
    line(ax, (11, 16.6), (11, 25))
    word(ax, 11.7, 20.8, "no: discrete")
    question(ax, 1, 25, 20, ["May f be differentiated?", "at least at the samples"])
    line(ax, (21, 26.6), (23, 26.6), (23, 23.8), (25, 23.8))
    word(ax, 22.4, 22.6, "yes", "right")
    question(ax, 25, 21, 19, ["Is a bias tolerable?"])
    line(ax, (44, 22.6), (46.5, 22.6), (46.5, 23.6), (49, 23.6))
    word(ax, 44.35, 21.45, "yes")
    line(ax, (44, 25), (46.5, 25), (46.5, 30), (49, 30))
    word(ax, 44.35, 26.3, "no")
    answer(ax, 49, 21, "ReinMax", "or GumbelSoftmax", "reinmax", biased=True)
    answer(ax, 49, 27.4, "ScoreFunction(k)", "or REBAR: measure both", "scorefunction")
    line(ax, (11, 30.6), (11, 39.4))
    word(ax, 11.7, 34.3, "no: a black box")
    question(ax, 1, 39.4, 20, ["Evaluations of f", "for one estimate"])
    answers = (
        ("1", "ScoreFunction(1)", "LearnedBaseline", "scorefunction"),
        ("2 or more", "ScoreFunction(k)", "bits: DisARM, ARMS", "scorefunction"),
        ("variables + 1", "LocalExpectation", "least noise", "localexpectation"),
    )
    for i, (count, name, note, link) in enumerate(answers):
        answer(ax, 25 + i * 15.2, 39.6, name, note, link, width=13.6)
        word(ax, 31.8 + i * 15.2, 37.4, count, "center")
    line(ax, (21, 42.2), (25, 42.2))
    return fig
