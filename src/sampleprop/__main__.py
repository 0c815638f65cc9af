"""`python -m sampleprop`: the command, where its script is not on the path."""

from sampleprop.lab.command.main import main

main()
