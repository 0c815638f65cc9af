"""Which estimator has the least variance, and at what cost?

This wing measures several estimators on one expectation at equal evaluations of f. It imports `measuring` only.

- `compare`: the function that users call; it trains, times and measures the estimators in rounds.
- `program`: the same for a program, each estimator in the place of the one at a site.
- `comparison`: the result, as a table in text, Markdown, HTML or JSON lines.
- `row`: one line of that table, and the reason why an estimator has none.
- `trajectory`: `compare` at several points of one optimization path, since the best estimator at the start of a
  training need not be the best at its end.
"""
