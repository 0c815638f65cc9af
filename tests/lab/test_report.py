"""The report: everything is in one file, every plot is there, and several seeds are means with their spread."""

import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sampleprop.diagnostics.comparing.row import Row
from sampleprop.lab.command.app import app
from sampleprop.lab.show import curves, panels, plot, svg, terminal
from sampleprop.lab.show.page import page
from sampleprop.lab.show.section import Section
from sampleprop.lab.show.summary import Summary

NAMES = "ScoreFunction,StraightThrough,DisARM"


class Page(HTMLParser):
    """The start tags, and what was not closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    arguments = ["compare", "toy", "normal", "--estimators", NAMES, "--replicates", "512", "--seeds", "2"]
    result = CliRunner().invoke(app, [*arguments, "--budgets", "4,8", "--trajectory", "2", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_report_needs_nothing_else(text: str) -> None:
    assert "http" not in text
    assert "//" not in text
    page = Page(text)
    assert not page.open
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "image"} == set()
    references = [value or "" for _, attributes in page.tags for key, value in attributes.items() if "href" in key]
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert all(reference.startswith("#") and reference[1:] in names for reference in references)
    assert all(name in names for name in re.findall(r"url\(#([^)]*)\)", text))


def test_every_plot_and_number_is_there(text: str, out: Path) -> None:
    for words in ("Variance × time", "z of the bias", "Variance against evaluations", "Along a training path"):
        assert text.count(f">{words}<") == 2, words
    assert text.count("Bias of the biased, % of the gradient</text>") == 1  # the normal problem has no biased estimator
    figures = re.findall(r'<svg viewBox="[^"]*" role="img" aria-label="([^"]*)"', text)
    assert len(figures) == 3 + 4
    # Straight-through is right for the fair bits at the start of the path, and biased at its end.
    for label in ("ScoreFunction(samples=16)", "StraightThrough(samples=16)", "DisARM(samples=16)"):
        assert f'<th scope="row">{label}</th>' in text
    assert len(re.findall(r'<th scope="col"[^>]*>estimator</th>', text)) == 6 + 3
    assert (out / "comparison.md").read_text().count("\n# ") == 1


def test_the_colors_follow_the_page(text: str) -> None:
    figure = text.partition("<svg")[2].partition("</svg>")[0]
    assert "var(--ink)" in figure
    assert panels.INK not in figure
    assert "prefers-color-scheme: dark" in text
    for variable in svg.PROPERTIES.values():
        assert text.count(f"{variable}: #") == 2  # light and dark


def row(label: str, *, variance: float, milliseconds: float = 1.0, z: float = 0.0, rank: int | None = None) -> Row:
    return Row(
        label=label,
        name=label,
        claims_unbiased=True,
        evaluations=4,
        bias=0.25 if z > 4 else 0.0,
        bias_z=z,
        bias_visible=0.1,
        variance=variance,
        variance_error=0.01,
        signal_to_noise=1.0,
        milliseconds=milliseconds,
        error=variance,
        trained=0,
        replicates=128,
        rank=rank,
    )


def comparison(seed: int, *rows: Row) -> object:
    from sampleprop.diagnostics import Comparison

    return Comparison(rows, (), 4, seed, "exact", ("logits",), 2.0, problem=f"Digits: 10 bits ({seed} nats)")


def test_each_group_has_a_color_and_a_marker_of_its_own() -> None:
    general = replace(row("Lucky", variance=0.1), claims_unbiased=False)
    summary = Summary([comparison(3, row("Right", variance=1.0, rank=1), general, row("Wrong", variance=1.0, z=9.0))])
    groups = [line.mean.group for line in summary.lines]
    assert groups == ["unbiased", "biased in general", "biased here"]
    assert len({panels.color(line.mean) for line in summary.lines}) == 3
    shape = plot.figure(summary, (panels.variance,) * 2, (4, 4))
    dots = {
        dot.get_ydata()[0]: (dot.get_color(), dot.get_marker())
        for dot in shape.axes[0].get_lines()
        if dot.get_marker() in ("o", "D")
    }
    assert [dots[y] for y in sorted(dots)] == [panels.MARKERS[group] for group in groups]
    heights = sorted(dots)
    assert heights[1] - heights[0] > 1.5  # a gap between two groups
    assert heights[2] - heights[1] > 1.5
    console = Console(width=200, force_terminal=True, record=True, file=StringIO())
    terminal.show(summary, console)
    shown = {label: next(line for line in console.export_text(styles=True, clear=False).splitlines() if label in line)
             for label in ("Right", "Lucky", "Wrong")}  # fmt: skip
    assert "\x1b[35m(< 10 %)" in shown["Lucky"]
    assert "\x1b[32m" in shown["Right"].replace("1;32m", "32m")
    assert "\x1b[32m" not in shown["Lucky"].replace("1;32m", "32m")
    text = page([Section(summary, (), (), (), (0.0, 0.0))])
    assert '<tr class="biased-in-general"><td>–</td><th scope="row">Lucky</th>' in text
    assert "Of the unbiased, <strong>Right</strong>" in text


def test_means_and_spreads_over_seeds() -> None:
    summary = Summary(
        [
            comparison(
                3, row("A", variance=1.0, rank=1), row("B", variance=2.0, rank=2), row("C", variance=0.5, z=9.0)
            ),
            comparison(
                5, row("B", variance=1.0, rank=1), row("A", variance=5.0, rank=2), row("C", variance=0.7, z=1.0, rank=3)
            ),
        ]
    )
    assert summary.title == "Digits: 10 bits"
    assert [line.mean.label for line in summary.lines] == ["B", "A", "C"]  # C is biased for one seed
    assert [line.mean.rank for line in summary.lines] == [1, 2, None]
    a = dict(zip(summary.columns, summary.cells(summary.lines[1]), strict=True))
    assert a["variance"] == f"{3:.3g} ± {statistics.stdev([1.0, 5.0]):.1g}"
    assert a["ranks"] == "1–2"
    c = dict(zip(summary.columns, summary.cells(summary.lines[2]), strict=True))
    assert (c["bias z"], c["rank"], c["ranks"]) == ("9.0", "–", "3")
    assert summary.lines[1].relative(lambda row: row.variance) == [0.25, 1.25]
    assert "seeds 3, 5." in summary.notes()[0]
    assert "| 1 | B |" in summary.to_markdown()


def test_one_seed_is_shown_as_it_is() -> None:
    alone = comparison(3, row("A", variance=1.0, rank=1))
    assert Summary([alone]).title == "Digits: 10 bits (3 nats)"
    assert Summary([alone]).to_markdown() == alone.to_markdown()
    assert Summary([alone]).notes() == alone.notes()
    assert "3 pieces ran at the same time" in Summary([alone], jobs=3).to_markdown()


def test_the_lines_of_the_charts() -> None:
    def at(evaluations: int, variance: float, label: str) -> Row:
        return replace(row(label, variance=variance), evaluations=evaluations)

    low = [comparison(seed, at(4, v, "A(samples=4)")) for seed, v in ((0, 8.0), (1, 24.0))]
    high = [comparison(seed, at(8, 4.0, "A(samples=8)"), at(8, 2.0, "B(samples=8, temperature=1)")) for seed in (0, 1)]
    unbiased, biased = curves.over_evaluations([high, low], {"B(temperature=1)"})
    assert unbiased.lines == {"A": [(4.0, 4.0), (8.0, 1.0)]}  # over the squared gradient, 4
    assert biased.lines == {"B(temperature=1)": [(8.0, 0.5)]}


def test_names_stand_apart_in_order_and_inside() -> None:
    heights = curves._spread([0.1, 0.5, 0.5, 0.51, 0.99, 1.0], 0.1)
    assert heights == pytest.approx([0.1, 0.4033, 0.5033, 0.6033, 0.9, 1.0], abs=1e-3)


def test_a_bias_beyond_the_axis_and_one_of_no_reference_are_drawn() -> None:
    rows = (
        row("A", variance=1.0),
        replace(row("B", variance=0.0), bias=None, bias_z=None, bias_visible=None),
        row("C", variance=2.0, z=300.0),
    )
    figure = plot.figure(Summary([comparison(0, *rows)]), (panels.bias, panels.score, panels.variance), (1, 1, 1))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sorted(words) == ["none", "unknown", "unknown"]
