"""Run the whole sweep, and write the documentation's page, its data and its pictures; `--draw` keeps the data."""

import sys
import time
import warnings

import torch

from laws.page import DATA, PAGE, PICTURES, Table, load, picture, render, save
from laws.pyro_table import PYRO
from laws.sweep import BIAS, ESTIMATORS, run
from laws.table import REGIMES, TORCH

ROWS = 2000
torch.set_num_threads(1)
warnings.simplefilter("ignore")  # torch's, on singular samples of Wishart
silent = 0
if "--draw" in sys.argv:
    table = load()
else:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    table = load() if words and DATA.exists() else Table()
    for law in (*TORCH, *PYRO):
        if words and not any(word in law.name for word in words):
            continue
        start = time.perf_counter()
        row = {}
        for name in ESTIMATORS:
            verdicts = []
            for regime, word in enumerate(REGIMES):
                torch.manual_seed(0)
                try:
                    verdicts.append(run(law, regime, name, ROWS))
                except Exception as error:  # any: the others are wanted too
                    silent += 1
                    print(f"SILENT {law.name} / {word} / {name}: {type(error).__name__}: {str(error)[:400]}")
            row[name] = verdicts
        table[law.name] = row
        print(f"{time.perf_counter() - start:6.2f} s  {law.name}", flush=True)
    if silent:
        sys.exit(f"{silent} cells are neither right nor refused")
    save(table)
PAGE.write_text(render(table, ROWS, BIAS))
for theme, path in PICTURES.items():
    path.write_text(picture(table, theme))
