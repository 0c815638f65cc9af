"""How results are shown: in the terminal, as Markdown, as pictures and as one HTML file.

This wing only presents numbers that were measured. It imports `measure` and the diagnostics, but not `command`.

- `summary`: one comparison, or the means and spreads over several seeds, as a table with notes.
- `curves`: line charts: variance against evaluations, and along a path of φ.
- `section`: all that is shown of one problem: its summary and its charts.
- `panels`, `plot`: the picture of a comparison and its panels.
- `svg`, `style`, `page`: the HTML report, its figures and its looks.
- `output`: writes all of these into the folder of a run.
- `audited`: the audit of an advantage or a loss, as a picture and an HTML file.
- `terminal`: prints tables that fit the terminal.
- `table`: the table of methods, from the facts of the estimators.
"""
