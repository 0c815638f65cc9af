"""What one command measures, who measures it, and how results are kept.

This wing is the bottom of the lab. It imports the diagnostics and the estimators, but no other wing.

- `problems`: the built-in problems, and those in a file of the user's.
- `configurations`: estimators as they are written on the command line.
- `files`: objects in a file of the user's, `FILE.py:NAME`, for both of these.
- `runs`: the settings of a run, its pieces (a problem with a seed), and how a piece is measured.
- `workers`: who measures the pieces: this process, several processes, or a Dask cluster.
- `progress`: the live bars in the terminal meanwhile.
- `results`: results as JSON lines, and back.
- `store`: the folder of a run, in which finished pieces are kept.
- `mistakes`: mistakes that the user can correct, and the exit status after Ctrl-C.
"""
