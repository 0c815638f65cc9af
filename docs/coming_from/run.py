"""Run the left column of a page with the library that it comes from, and write what it prints into the page.

    python docs/coming_from/run.py storchastic      # pip install -e '.[peers]'
    python docs/coming_from/run.py pyro             # pip install -e '.[peers]'
    python docs/coming_from/run.py optax            # pip install optax==0.2.6 jax==0.10.2, in an environment of its own

The ```py blocks of the page are run in order; what each prints becomes the ```text block after it. Code, output and
versions are also written beside the page, as JSON, which the tests compare with the page. It needs no sampleprop.
"""

import argparse
import importlib.metadata
import json
import platform
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

PACKAGES = {"storchastic": ("storchastic", "torch"), "pyro": ("pyro-ppl", "torch"), "optax": ("optax", "jax")}
BLOCK = re.compile(r"^```py\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def printed(page: str) -> list[dict[str, str]]:
    """Each block with what it prints."""
    scope: dict[str, object] = {}
    found = []
    for code, _ in BLOCK.findall(page):
        output = StringIO()
        with redirect_stdout(output):
            exec(compile(code, "the page", "exec"), scope)
        found.append({"code": code, "prints": output.getvalue()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PACKAGES)
    parser.add_argument("--json", type=Path, help="where the results go; then the page is left as it is")
    arguments = parser.parse_args()
    path = Path(__file__).with_name(f"{arguments.name}.md")
    page = path.read_text(encoding="utf-8")
    blocks = printed(page)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES[arguments.name]}
    found = {
        "command": f"python docs/coming_from/run.py {arguments.name}",
        "versions": versions | {"python": platform.python_version()},
        "blocks": blocks,
    }
    written = arguments.json or path.with_suffix(".json")
    written.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.json is None:
        shown = [f"```text\n{block['prints']}```\n" if block["prints"] else "" for block in blocks]
        outputs = iter([f"```py\n{block['code']}```\n{text}" for block, text in zip(blocks, shown, strict=True)])
        path.write_text(BLOCK.sub(lambda _: next(outputs), page), encoding="utf-8")


if __name__ == "__main__":
    main()
