"""Draw pictures: see the package."""

import argparse
import json

import torch

from pictures import FOLDER, NAMES, data_file, drawn, module
from pictures.style import svg

THUMBNAILS = tuple(f"thumbnail-{name}" for name in module("thumbnails").DRAWINGS)
OUTCOMES = tuple(f"outcomes-{name}" for name in module("outcomes").TABLES)
ALL = NAMES + OUTCOMES + THUMBNAILS

parser = argparse.ArgumentParser(prog="python -m pictures", description="Draw the pictures of the documentation.")
parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; all without one")
parser.add_argument("--measure", action="store_true", help="measure the numbers again, which takes minutes")
arguments = parser.parse_args()
torch.set_num_threads(1)
for name in arguments.names or ALL:
    if arguments.measure and hasattr(module(name), "numbers"):
        torch.manual_seed(0)
        text = json.dumps(module(name).numbers(), separators=(",", ":"))
        data_file(name).write_text(text + "\n", encoding="utf-8")
    text = svg(drawn(name))
    (FOLDER / f"{name}.svg").write_text(text, encoding="utf-8")
    print(f"{name}: {len(text) // 1024} kB")
