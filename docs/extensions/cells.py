"""The robustness matrix in one table: the directive `cells` stands where it goes, and the page's own tables fill it.

Each cell is a link to the words of its refusal or of its reason, or to the section that says how it was proven right.
"""

import re
from html import escape
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

KINDS = {"right": "right", "refused": "refused", "n/a": "nothing", "skipped": "skipped"}
WORDS = {
    "right": "right",
    "refused": "refused, with advice",
    "n/a": "does not apply",
    "skipped": "needs a machine that was not available",
}


class cells(nodes.Element):
    """Where the table goes."""


class Cells(SphinxDirective):
    """Marks the place."""

    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        return [cells()]


class Table(SphinxTransform):
    """Puts the table in the place, and a target at each reason."""

    default_priority = 900

    def apply(self, **_: object) -> None:
        for place in list(self.document.findall(cells)):
            place.replace_self(nodes.raw("", self.html(), format="html"))

    def html(self) -> str:
        heads: list[str] = []
        found: dict[str, list[str]] = {}
        counts = dict.fromkeys(KINDS, 0)
        for section in self.document.findall(nodes.section):
            if not isinstance(section.parent, nodes.section):
                continue
            anchor = section["ids"][0]
            reasons = {}
            for items in section.findall(nodes.enumerated_list):
                for number, item in enumerate(items.children, 1):
                    item["ids"].append(f"{anchor}-{number}")
                    reasons[str(number)] = item.astext()
            for table in section.findall(nodes.table):
                names, *body = ([entry.astext() for entry in row] for row in table.findall(nodes.row))
                heads += names[1:]
                for name, *row in body:
                    for head, text in zip(names[1:], row, strict=True):
                        kind, number = re.match(r"(\S+)(?: \((\d+)\))?", text).groups()  # type: ignore[union-attr]
                        counts[kind] += 1
                        target = f"{anchor}-{number}" if number else anchor
                        title = escape(f"{name}, {head}: {kind}" + (f". {reasons[number]}" if number else ""))
                        link = f'<a href="#{target}" title="{title}" aria-label="{title}"></a>'
                        found.setdefault(name, []).append(f'<td class="{KINDS[kind]}">{link}</td>')
        key = "".join(f'<span><i class="{KINDS[kind]}"></i>{WORDS[kind]}: {counts[kind]:,}</span> ' for kind in KINDS)
        top = "".join(f"<th><span>{escape(head)}</span></th>" for head in heads)
        body = ""
        for name, row in found.items():
            page = f"estimators/{name.partition(',')[0].lower()}.html"
            body += f'<tr><th scope="row"><a href="{page}">{name}</a></th>{"".join(row)}</tr>'

        return (
            f'<div class="cells"><p>{key}</p><table><thead><tr><th></th>{top}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("cells", Cells)
    app.add_transform(Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
