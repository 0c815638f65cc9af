"""The directive `picture`: an SVG of `docs/pictures` inside the page, so that it follows the page's colours.

    :::{picture} baseline
    :alt: One sentence with what the picture shows.
    What to look at, and what follows from it.
    :::

`:thumbnail:` shows it small and without a caption, for cards.
"""

import re
from html import escape
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PICTURES = Path(__file__).parents[1] / "pictures"


def inlined(name: str, alt: str, root: str) -> str:
    """The SVG without what only a file of its own needs; ids are made unique on the page, links start at the page."""
    svg = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    svg = re.sub(r"<style>:root.*?</style>", "", svg, count=1, flags=re.DOTALL)
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg [^>]*?){size}="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="(?!#)([^"]+)"', rf'xlink:href="{root}\1"', svg)
    return svg.replace("<svg ", f'<svg aria-label="{escape(alt)}" ', 1)


class Picture(SphinxDirective):
    """A picture, its alternative text and its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required, "thumbnail": directives.flag}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(str(PICTURES / f"{name}.svg"))
        root = "../" * self.env.docname.count("/")
        if "alt" not in self.options:
            raise self.error(f"The picture {name} needs an alternative text. Add the option :alt:")
        figure = nodes.figure(classes=["thumbnail" if "thumbnail" in self.options else "picture"])
        figure += nodes.raw("", inlined(name, self.options["alt"], root), format="html")
        if self.content:
            caption, *_ = self.parse_content_to_nodes()
            figure += nodes.caption("", "", *caption.children)
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
