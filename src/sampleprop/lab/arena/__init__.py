"""The arena: every estimator on one standard suite, by one stated rule, from public files.

This wing imports `measure` and `show`, and `command` imports it.

- `problems`: the suite, with exact variances where they are known.
- `entrants`: who takes part: the register, and newer estimators that are not in it, one file each.
- `cells`: how an entrant is measured on a problem.
- `records`: one JSON file an entrant, with everything that its rows depend on.
- `running`: a run: what is missing in the files, and how results get into them.
- `rule`: the order, its uncertainty, and how much it depends on the rule.
- `tables`, `page`, `pages`: the tables, the HTML file, and what is written where.
- `template`: an estimator to begin with, and what a pull request contains.
- `standard`: the files that come with the library.
"""
