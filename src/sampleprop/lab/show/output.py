"""The files of a run: Markdown, a picture for each problem, and the report."""

from __future__ import annotations

import re
from pathlib import Path

from sampleprop.diagnostics.comparing.comparison import plain
from sampleprop.lab.measure.folder import replace
from sampleprop.lab.measure.store import RESULTS
from sampleprop.lab.show.section import Section


def write(problems: dict[str, Section], out: Path) -> list[Path]:
    """Write comparison.md, comparison.png (one for each problem, where there are several) and report.html.

    Args:
        problems: the sections, by the names of the problems on the command line.
        out: the folder, which holds the results already.

    Returns:
        The paths of all files, those of the results included.
    """
    from sampleprop.lab.show import plot
    from sampleprop.lab.show.page import page

    written = [out / RESULTS, out / "comparison.md"]
    sections = [f"# {plain(each.summary.title)}\n\n{each.summary.to_markdown()}\n" for each in problems.values()]
    replace(written[1], "\n".join(sections))
    for name, each in problems.items():
        if each.summary.lines:
            written.append(out / ("comparison.png" if len(problems) == 1 else f"comparison-{_file_name(name)}.png"))
            replace(written[-1], plot.picture(each.summary))
    written.append(out / "report.html")
    replace(written[-1], page(list(problems.values())))
    return written


def _file_name(problem: str) -> str:
    return re.sub(r"\W+", "-", problem).strip("-")
