"""Pages made from the register: one for each estimator, one for each family, and the links to torch's documentation."""

import re
import zlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import sampleprop
from sampleprop.estimator import FAMILIES, Family
from sampleprop.lab.show import table

DOCS = Path(__file__).parents[1]
PAGES = DOCS / "estimators"
ABOUT: dict[Family, str] = {
    "exact sums": "They sum over the outcomes of all variables, or of one at a time.",
    "score function": "They multiply the score of a sample by its cost, less a baseline. The cost may be a black box.",
    "coupled samples": "They compare the costs of samples that were made to differ. The cost may be a black box.",
    "pathwise": "They differentiate the cost through the sample of a continuous variable.",
    "straight-through": "They evaluate the cost at a true sample and differentiate a smooth one. They are biased.",
    "relaxations": "They replace the discrete sample by a smooth one. They are biased.",
    "control variates": "They subtract what is close to the cost, and add the gradient of its mean. They have no bias.",
    "multi-sample bounds": "They differentiate a bound on the log-likelihood that uses several samples.",
    "smoothing": "They move the parameters and look how the cost changes: no log-probability and no path is needed.",
    "solvers": "They take the solution of an optimization problem with perturbed scores as the sample.",
}
FACTS = ("Variables", "Samples seen by f", "Bias", "f must be", "Evaluations", "Learns", "Derivatives", "torch.compile")


def facts(method: table.Method) -> tuple[str, ...]:
    """What a reader asks first, in the order of FACTS."""
    _, takes, _, exact, needs, unbiased, evaluations, learns, order, compiles = (
        cell.replace("**", "") for cell in method.cells()
    )
    return (
        takes,
        "true samples" if exact.startswith("Yes") else "relaxed samples",
        "none" if unbiased == "Yes" else "biased",
        {"No": "a black box will do", "Yes": "differentiable in x"}.get(
            needs, "differentiable between the outcomes too"
        ),
        f"{evaluations} (forward + backward, default arguments)",
        learns.replace("–", "nothing"),
        "of any order" if order == "any" else "first",
        "works" if compiles == "Yes" else compiles,
    )


def estimator_page(entry: type[sampleprop.Estimator[Any, Any]], method: table.Method) -> str:
    """Its facts, its docstring, its source."""
    name = entry.__name__
    assert entry.source is not None
    also = [f"Also known as {', '.join(entry.aliases)}.", ""] if entry.aliases else []
    rows = [f"| **{fact}** | {value} |" for fact, value in zip(FACTS, facts(method), strict=True)]
    return "\n".join(
        [
            f"# {name}",
            "",
            *also,
            "| | |",
            "|---|---|",
            *rows,
            "",
            "```{eval-rst}",
            f".. autoclass:: sampleprop.{name}",
            "```",
            "",
            f"Source: {entry.source}",
            "",
            "```bibtex",
            entry.source.bibtex(),
            "```",
            "",
        ]
    )


def family_page(family: Family, members: dict[str, table.Method]) -> str:
    """A table of its estimators, each with a link."""
    rows = []
    for name, method in members.items():
        takes, _, bias, needs, evaluations, *_ = facts(method)
        counted = evaluations.partition(" (forward")[0]
        rows.append(f"| [{name}]({name.lower()}.md) | {takes} | {bias} | {needs} | {counted} |")
    return "\n".join(
        [
            f"# {family.capitalize()}",
            "",
            ABOUT[family],
            "",
            "| estimator | variables | bias | f must be | evaluations |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Evaluations are counted forward + backward, for one estimate with the default arguments.",
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *(name.lower() for name in members),
            "```",
            "",
        ]
    )


def file_of(family: Family) -> str:
    """The name of a family's page."""
    return "family-" + family.replace(" ", "-")


def write(path: Path, text: str) -> None:
    """Write only what has changed, so that the next build reads only that."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_pages() -> None:
    """All pages of the folder `estimators`; what is no longer in the register goes."""
    PAGES.mkdir(exist_ok=True)
    rows = {method.name: method for method in table.methods()}
    pages = {entry.__name__.lower(): estimator_page(entry, rows[entry.__name__]) for entry in sampleprop.REGISTER}
    for family in FAMILIES:
        members = {entry.__name__: rows[entry.__name__] for entry in sampleprop.REGISTER if entry.family == family}
        pages[file_of(family)] = family_page(family, members)
    for path in PAGES.iterdir():
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        write(PAGES / f"{name}.md", text)


def write_inventory(names: Path, inventory: Path) -> None:
    """The names of torch that our pages mention, as the inventory that Sphinx looks links up in."""
    lines = names.read_text(encoding="utf-8").splitlines()
    objects = "".join(f"{name} py:{role} 1 {page}#$ -\n" for name, role, page in (line.split() for line in lines))
    head = (
        b"# Sphinx inventory version 2\n# Project: torch\n# Version: stable\n# The remainder is compressed by zlib.\n"
    )
    inventory.parent.mkdir(exist_ok=True)
    inventory.write_bytes(head + zlib.compress(objects.encode()))


def escape_shapes(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Shapes such as [k, *batch, *event] are no emphasis."""
    lines[:] = [re.sub(r"(?<![\\*])\*(?=(?:batch|draws|event|K|variables)\b)", r"\\*", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_shapes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
