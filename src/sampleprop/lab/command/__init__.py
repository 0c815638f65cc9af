"""The `sampleprop` command. It imports the other wings, and nothing imports it.

- `main`: the entry point, which says what to install where an extra is missing.
- `app`: all commands; `table`, `cite` and `list` stand here.
- `arena`, `audit`, `certify`, `compare`, `recommend`: one command each.
- `arguments`: the meaning of the words on the command line.

A command imports what needs torch when it runs, so that `--help` and the completion of the shell are there at once.
"""
