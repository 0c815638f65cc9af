"""A figure as SVG inside a page: its text stays text, its colors follow the page, and its ids are unique."""

from __future__ import annotations

import html
import re
from io import StringIO
from typing import Any

from sampleprop.lab.show.panels import BIASED, GENERAL, INK, MUTED, PALE, UNBIASED

# The colors of the figures, and the properties of the page that replace them.
PROPERTIES = {
    UNBIASED: "--unbiased",
    GENERAL: "--general",
    BIASED: "--biased",
    PALE: "--pale",
    INK: "--ink",
    MUTED: "--muted",
}


def inline(figure: Any, name: str, description: str) -> str:
    """The SVG element.

    Args:
        figure: of matplotlib; its background is left out.
        name: the name of this figure, unique in the page.
        description: what it shows, for readers who cannot see it.
    """
    import matplotlib

    figure.patch.set_alpha(0.0)
    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = re.search(r"<svg\b.*</svg>", text.getvalue(), re.DOTALL)
    assert found is not None
    svg = re.sub(r"<metadata>.*?</metadata>", "", found[0], flags=re.DOTALL)
    # Inside HTML the XML namespaces need no declaration.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--font)", svg)
    for color, variable in PROPERTIES.items():
        svg = svg.replace(color, f"var({variable})")
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    label = html.escape(description, quote=True)
    return re.sub(r"<svg\b[^>]*>", f'<svg {view[0]} role="img" aria-label="{label}">', svg, count=1)
