"""What one command measures, who measures it, and how results are kept.

This wing is the bottom of the lab. It imports the diagnostics and the estimators, but no other wing.

- `names`: what can stand on the command line, known without torch.
- `problems`: the built-in problems, and those in a file of the user's.
- `configurations`: estimators as they are written on the command line.
- `files`: objects in a file of the user's, `FILE.py:NAME`, for both of these.
- `runs`: the settings of a run, its pieces (a problem with a seed), and how a piece is measured.
- `workers`: who measures the pieces: this process, several processes, or a Dask cluster.
- `progress`: the live bars in the terminal meanwhile.
- `results`: results as JSON lines, and back.
- `store`: the results of a run, of which finished pieces are kept.
- `folder`: how its files are written: in one step, never through a link, by one run at a time.
- `mistakes`: mistakes that the user can correct, and the exit statuses.
"""
