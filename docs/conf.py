"""The documentation: written pages, one page for each estimator of the register, and the table of methods.

Formulas become MathML while the pages are built, so that a browser shows them without JavaScript and without a network;
one that cannot be read ends the build. STIX Two Math, the font beside the pages, is what stretches their brackets.
"""

import re
from pathlib import Path

import ziamath
from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

import sampleprop
from sampleprop.lab.show import table

project = "sampleprop"
author = "the sampleprop authors"
release = sampleprop.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"sampleprop {release}"
html_math_renderer = "mathml"
html_static_path = ["_static", str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["pages.css"]
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = False

PAGES = Path(__file__).parent / "estimators"
FORMULAS = LatexToMathML()


def page(entry: type[sampleprop.Estimator]) -> str:
    """One estimator's page: its docstring, its source, its BibTeX entry."""
    name = entry.__name__
    return "\n".join(
        [
            f"# {name}",
            "",
            "```{eval-rst}",
            f".. autoclass:: sampleprop.{name}",
            "```",
            "",
            f"Source: {entry.source}",
            "",
            *([f"Also known as {', '.join(entry.aliases)}.", ""] if entry.aliases else []),
            "```bibtex",
            entry.source.bibtex(),
            "```",
            "",
        ]
    )


def inline_formula(translator: HTML5Translator, node: nodes.math) -> None:
    """$x$ in a line."""
    translator.body.append(mathml(node, displaystyle=False))
    raise nodes.SkipNode


def display_formula(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula of its own."""
    translator.body.append(f'<div class="formula">{mathml(node, displaystyle=True)}</div>')
    raise nodes.SkipNode


def mathml(node: nodes.Element, displaystyle: bool) -> str:
    """The formula as a browser draws it by itself."""
    try:
        return FORMULAS.convert_with_local_state(node.astext(), displaystyle=displaystyle)
    except LatexError as error:
        raise ExtensionError(f"{node.source}:{node.line}: the formula cannot be read: {error}") from error


def escape_shapes(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Shapes such as [k, *batch, *event] are no emphasis."""
    lines[:] = [re.sub(r"(?<![\\*])\*(?=(?:batch|draws|event|K|variables)\b)", r"\\*", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_shapes)
    app.add_html_math_renderer("mathml", (inline_formula, None), (display_formula, None))


PAGES.mkdir(exist_ok=True)
for entry in sampleprop.REGISTER:
    (PAGES / f"{entry.__name__.lower()}.md").write_text(page(entry))
(PAGES / "table.inc").write_text(table.markdown() + "\n")
