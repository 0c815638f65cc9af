"""The quickstart notebook: its cells run from top to bottom, and its outputs are those of these cells."""

import ast
import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from sampleprop import Estimator
from sampleprop.diagnostics import Comparison, Recommendation

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = [cell for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
LARGEST = 100_000  # bytes
TIMED_KINDS, TIMED = (Comparison, Recommendation, Estimator), "depends on the clock"


def shown(cell: dict[str, Any], form: str) -> str:
    """What a cell's output says, as text or HTML."""
    found = [output.get("data") or {"text/plain": output["text"]} for output in cell["outputs"]]
    return "".join("".join(data.get(form, [])) for data in found)


def words(text: str) -> list[str]:
    """Text without its numbers, which rounding and the clock may change, and without what is made of them."""
    return re.sub(r"[-+]?[\d.]+(?:e[-+]?\d+)?", "#", text).split()


def run(source: str, scope: dict[str, Any]) -> tuple[str, object]:
    """What a cell prints and what its last line is, as Jupyter has it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, str(NOTEBOOK), "exec"), scope)
        value = None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), scope)
    return printed.getvalue(), value


def test_it_is_a_notebook_that_was_run_in_order() -> None:
    assert (CONTENT["nbformat"], CONTENT["metadata"]["language_info"]["name"]) == (4, "python")
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert len({cell["id"] for cell in CONTENT["cells"]}) == len(CONTENT["cells"])
    kinds = {(output["output_type"], output.get("name")) for cell in CODE for output in cell["outputs"]}
    assert kinds == {("stream", "stdout"), ("execute_result", None)}  # no error, and no warning
    assert NOTEBOOK.stat().st_size < LARGEST


def test_the_cells_run_in_order_and_show_the_same() -> None:
    """All that the clock has no part in: ranks go by time, and a choice between ties too."""
    threads = torch.get_num_threads()
    scope: dict[str, Any] = {}
    values: list[object] = []
    now, then = [], []
    try:
        for cell in CODE:
            printed, value = run("".join(cell["source"]), scope)
            values.append(value)
            said = printed or ("" if value is None else repr(value))
            now.append(words(TIMED if isinstance(value, TIMED_KINDS) else said))
            then.append(words(TIMED if isinstance(value, TIMED_KINDS) else shown(cell, "text/plain")))
            assert hasattr(value, "_repr_html_") == bool(shown(cell, "text/html"))
    finally:
        torch.set_num_threads(threads)
    assert now == then
    assert {"Tensor", "Check", "Comparison", "Recommendation"} <= {type(value).__name__ for value in values}
    assert scope["advice"].estimator.unbiased


@pytest.mark.parametrize("cell", [cell for cell in CODE if shown(cell, "text/html")], ids=lambda cell: cell["id"])
def test_the_tables_are_well_formed(cell: dict[str, Any]) -> None:
    """Every tag that opens closes, and no text of ours opens one."""
    html = shown(cell, "text/html")
    stack: list[str] = []
    for closing, tag in re.findall(r"<(/?)([a-z]+)[^>]*>", html):
        if closing:
            assert stack.pop() == tag
        else:
            stack.append(tag)
    assert not stack
    assert "<table>" in html
