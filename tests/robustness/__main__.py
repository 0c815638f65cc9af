"""Write the documentation's page from a run of the whole matrix; with words, print the cells that contain them."""

import sys
import time
import traceback

import torch

from robustness.matrix import CONDITIONS
from robustness.page import PAGE, Table, render
from robustness.subject import subjects

torch.set_num_threads(1)
table: Table = {}
silent = 0
for subject in subjects():
    for one in CONDITIONS:
        if any(word not in f"{subject} / {one.name}" for word in sys.argv[1:]):
            continue
        torch.manual_seed(0)
        start = time.perf_counter()
        try:
            table[str(subject), one.name] = one.run(subject)
            print(f"{time.perf_counter() - start:6.2f} s  {subject} / {one.name}: {table[str(subject), one.name].kind}")
        except Exception as error:  # any: the others are wanted too
            silent += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED {subject} / {one.name}: {type(error).__name__}: {str(error)[:400]!r} ({where.name})")
if silent:
    sys.exit(f"{silent} cells are neither right nor refused")
if not sys.argv[1:]:
    PAGE.write_text(render(table, subjects()))
