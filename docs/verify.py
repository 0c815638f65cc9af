"""Look at the built pages: every internal link leads somewhere, and the search finds what people type.

python docs/verify.py docs/_build/html
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What people type, and a page that must be among those found.
WANTED = {
    "REINFORCE": "estimators/scorefunction",
    "RLOO": "estimators/scorefunction",
    "IWAE": "estimators/importanceweighted",
    "Concrete": "estimators/gumbelsoftmax",
    "MoE": "structures",
    "GRPO": "language_models",
    "top-k": "structures",
}


class Page(HTMLParser):
    """The targets of a page and the links that leave from it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.targets.add(value)
            if name in ("href", "xlink:href", "src") and value:
                self.links.append(value)


def dead_links(folder: Path) -> list[str]:
    """Links to files or to places on pages that are not there."""
    pages = {
        path: Page(path.read_text(encoding="utf-8")) for path in folder.glob("**/*.html") if "_static" not in path.parts
    }
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = unquote(parts.fragment)
            if not file.exists() or (target and file in pages and target not in pages[file].targets):
                dead.append(f"{path.relative_to(folder)}: {link}")
    return dead


def not_found(folder: Path) -> list[str]:
    """Words of WANTED whose page the index of the search does not name."""
    text = (folder / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    lost = []
    for words, page in WANTED.items():
        number = index["docnames"].index(page)
        for word in re.findall(r"\w+", words.lower()):
            # The index has stems, so that a word may have lost its end.
            stems = {word[:length] for length in range(max(1, len(word) - 2), len(word) + 1)}
            found: set[int] = set()
            for terms in (index["terms"], index["titleterms"]):
                for stem in stems & set(terms):
                    found |= {terms[stem]} if isinstance(terms[stem], int) else set(terms[stem])
            if number not in found:
                lost.append(f"{words} does not find {page}")
    return lost


if __name__ == "__main__":
    built = Path(sys.argv[1]).resolve()
    faults = [*dead_links(built), *not_found(built)]
    print("\n".join(faults) or "No dead links, and the search finds what it should.")
    sys.exit(bool(faults))
