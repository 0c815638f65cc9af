"""Formulas become drawings while the pages are built, so that every browser shows the same without a network.

TeX -> MathML (math-core) -> SVG (ziamath). The TeX stays as the label that a screen reader reads. A formula that cannot
be read ends the build.
"""

import re
from functools import cache

import ziamath
from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

PIXELS = 16  # of one em of the text around
INLINE, DISPLAY = 17.5, 18.5  # the font size of formulas, in pixels: STIX is smaller than the text's font
CONVERTER = LatexToMathML()
# ziamath puts a space after ∇ and ∂ where the operator is an identifier; as text it has none.
LETTER = '<mi(?: mathvariant="normal")?>([∇∂])</mi>'
SPACED = re.compile(f"<mrow><mspace/>{LETTER}</mrow>|{LETTER}")
VARIANTS = re.compile("[\N{VARIATION SELECTOR-1}\N{VARIATION SELECTOR-2}]")  # the font has no drawing for them
# The forms of these letters that the text's font has.
LETTERS = re.compile(r"\\(phi|epsilon)\b")


class Punctuation(SphinxPostTransform):
    """Hands the punctuation beside an inline formula to the formula, so that no line begins or ends with it alone."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: object) -> None:
        for node in list(self.document.findall(nodes.math)):
            siblings = node.parent.children
            place = siblings.index(node)
            if place + 1 < len(siblings) and isinstance(siblings[place + 1], nodes.Text):
                text = siblings[place + 1].astext()
                found = re.match(r"(?:[’']s)?[^\s\w–(\[]*(?=\s|$)", text)
                after = found[0] if found else ""
                node["after"] = after
                siblings[place + 1] = nodes.Text(text[len(after) :])
            if place and isinstance(siblings[place - 1], nodes.Text) and siblings[place - 1].astext().endswith("("):
                node["before"] = "("
                siblings[place - 1] = nodes.Text(siblings[place - 1].astext()[:-1])


@cache
def drawing(tex: str, display: bool) -> tuple[str, float, float, float]:
    """A formula as SVG; its width, height and depth below the line, in em."""
    source = CONVERTER.convert_with_local_state(LETTERS.sub(r"\\var\1", tex), displaystyle=display)
    source = SPACED.sub(lambda found: f"<mtext>{found[1] or found[2]}</mtext>", VARIANTS.sub("", source))
    formula = ziamath.Math(source, size=DISPLAY if display else INLINE)
    svg = formula.svg().replace("black", "currentColor")
    width, height = (float(re.search(rf'{name}="([\d.]+)', svg)[1]) for name in ("width", "height"))  # type: ignore[index]
    for name in ("width", "height"):
        svg = re.sub(rf'(<svg [^>]*?){name}="[^"]*"', r"\1", svg, count=1)
    return svg, width / PIXELS, height / PIXELS, formula.getyofst() / PIXELS


def drawn(translator: HTML5Translator, node: nodes.Element, tex: str, display: bool) -> str:
    """The formula as HTML."""
    try:
        svg, width, height, depth = drawing(tex, display)
    except LatexError as error:
        raise ExtensionError(f"{node.source}:{node.line}: the formula cannot be read: {error}") from error
    size = f"width:{width:.3f}em" + ("" if display else f";height:{height:.3f}em;vertical-align:{depth:.3f}em")
    svg = svg.replace("<svg ", f'<svg aria-hidden="true" style="{size}" ', 1)
    kind, tag = ("formula", "div") if display else ("formula-inline", "span")
    return f'<{tag} class="{kind}" role="math" aria-label="{translator.attval(tex)}">{svg}</{tag}>'


def inline_formula(translator: HTML5Translator, node: nodes.math) -> None:
    """$x$ in a line."""
    before, after = node.get("before", ""), translator.encode(node.get("after", ""))
    formula = drawn(translator, node, node.astext(), display=False)
    translator.body.append(f'<span class="together">{before}{formula}{after}</span>' if before or after else formula)
    raise nodes.SkipNode


def display_formula(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula of its own, or several: a blank line stands between them."""
    parts = re.split(r"\n\s*\n", node.astext().strip())
    translator.body.extend(drawn(translator, node, part, display=True) for part in parts)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(Punctuation)
    app.add_html_math_renderer("drawn", (inline_formula, None), (display_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
