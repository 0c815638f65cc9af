"""The command, run inside of the test."""

from typer.testing import CliRunner, Result

from sampleprop.lab.command.app import app


def run(*arguments: object) -> Result:
    """`sampleprop` with these arguments."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
