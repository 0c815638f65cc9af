"""The package as a user gets it: built, checked, and installed alone on every Python that is declared and found here.

Run by `.ci/run`, and by the workflow that publishes, which names a folder that keeps what was built. A Python is passed
over, and the last line says so, where it is not installed or where pip finds no CPU build of torch for it: any other
build is gigabytes of libraries for a GPU.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
# What a user runs first. The last one reads a file of the package that is not Python.
COMMANDS = (["--version"], ["compare", "toy", "--replicates", "128"], ["cite", "REBAR"])


def run(*command: object, folder: Path = ROOT) -> str:
    """The output of a command; a failure ends this script with what the command said."""
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, made from the source distribution as an index's users may make it."""
    run(sys.executable, "-m", "build", "--outdir", folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir())
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """It holds all tracked files below src, and nothing else but its metadata."""
    tracked = {name.removeprefix("src/") for name in run("git", "ls-files", "src").split()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if packed != tracked:
        sys.exit(f"{wheel.name} lacks {sorted(tracked - packed)} and has {sorted(packed - tracked)} too much.")


def interpreter(version: str) -> str | None:
    """A Python of this version, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for python in map(str, filter(None, found)):
        asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == version:
            return python
    return None


def tried(version: str, wheel: Path, folder: Path) -> str:
    """Install the wheel in an environment of its own, run it, and say what was done."""
    python = interpreter(version)
    if python is None:
        return f"Python {version}: not tried, it is not installed"
    torch = (ROOT / "constraints.txt").read_text().strip() + "+cpu"
    offered = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", torch]
    if subprocess.run(offered, capture_output=True, check=False).returncode:
        return f"Python {version}: not tried, pip finds no {torch} for it"
    run(python, "-m", "venv", folder)
    bin_folder = folder / "bin"
    run(bin_folder / "pip", "install", torch, f"{wheel}[lab]")
    for command in COMMANDS:
        output = run(bin_folder / "sampleprop", *command, folder=folder)  # away from the sources
        print(f"--- Python {version}: sampleprop {' '.join(command)}\n{output}", flush=True)
    return f"Python {version}: passed"


def main() -> None:
    """Build once; try the declared versions of Python one by one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "dist")
        check_contents(wheel)
        results = [tried(version, wheel, folder / version) for version in DECLARED]
    print(f"{wheel.name}: {'; '.join(results)}.")
    if not any(result.endswith("passed") for result in results):
        sys.exit("The wheel was tried nowhere. Install a Python for which pip finds the CPU build of torch.")


if __name__ == "__main__":
    main()
