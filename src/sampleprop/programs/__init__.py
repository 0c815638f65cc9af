"""Programs: random variables drawn in the middle of any code.

`sample` asks the program that is running in this thread for a value. What that program does is a `Run` (`site.py`):

- `folding.py` draws as the estimators do, and notes what follows; `fold.py` turns what it noted into one value with a
  gradient.
- `rest.py` runs the function again with a value in place of one variable, for estimators that evaluate f themselves.
- `computed.py` keeps what the first run computed, for those parts of further runs that would be the same.
- `apart.py` runs the function several times, where its control flow depends on samples.
- `forced.py` runs it along every path of outcomes: the exact value and gradient of a small program.
- `coupled_replay.py` runs it again with one outcome changed and all other noise kept.
- `streams.py` gives each variable noise of its own, and draws other noise a second time.

`program.py` is the decorator, and chooses between them.
"""
