"""The command line, its built-in problems, and what it writes. Needs `pip install 'sampleprop[lab]'`.

- `measure` is the bottom: problems, estimators as text, pieces of work and their results. It imports no other wing.
- `show` presents results: tables, figures, the HTML report. It imports `measure`.
- `arena` is the standard suite, on which every estimator stands in one order. It imports `measure` and `show`.
- `command` is what the user calls. It imports them all.
"""
