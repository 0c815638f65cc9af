"""What a release says about itself: one version everywhere, forms and workflows that can be read, and a paper whose
citations exist."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import sampleprop
from sampleprop.bibliography import own_entry
from sampleprop.lab.command.app import app

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAPER = (ROOT / "paper" / "paper.md").read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+) \((\d{4})-(\d\d)-(\d\d)\)$", CHANGELOG, re.MULTILINE)
    assert newest
    assert PROJECT["version"] == CITATION["version"] == sampleprop.__version__ == newest[1]
    assert str(CITATION["date-released"]) == "-".join(newest.groups()[1:])
    assert f"year = {{{newest[2]}}}" in own_entry()


def test_sampleprop_is_cited_as_its_file_says() -> None:
    printed = CliRunner().invoke(app, ["cite"]).stdout
    assert printed.strip() == own_entry()
    assert f"{{{{{CITATION['title']}}}}}" in printed
    assert f"version {sampleprop.__version__}, {PROJECT['license']}}}" in printed
    assert PROJECT["license"] == CITATION["license"]
    (author,) = PROJECT["authors"]
    assert [author] == CITATION["authors"]
    assert f"{{{{{author['name']}}}}}" in printed


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_can_be_shown(path: Path) -> None:
    """As the forge reads it: a name, a description, and fields with a label and an identifier of their own."""
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert set(form) == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert fields[0]["validations"]["required"]


def _matrices(key: str) -> list[Any]:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    return [case[key] for case in jobs["tests"]["strategy"]["matrix"]["versions"]]


def test_the_workflows_try_what_is_declared() -> None:
    declared = re.findall(r":: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={declared[0]}"
    assert sorted(set(_matrices("python"))) == declared
    (torch,) = PROJECT["dependencies"]
    assert _matrices("torch")[0] == torch.replace(">=", "==") + ".*"
    assert "torch" in _matrices("torch")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_what_exists_and_may_do_little(path: Path) -> None:
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {"contents": "read"}
    granted = [job["permissions"] for job in flow["jobs"].values() if "permissions" in job]
    assert granted == ([{"id-token": "write"}] if path.stem == "release" else [])
    files = re.findall(r"[\w./]*(?:\.ci|tests|src|docs)/[\w./]+", path.read_text())
    assert all((ROOT / file).exists() for file in files if "_build" not in file), files


def test_the_paper_has_the_form_that_the_journal_asks_for() -> None:
    _, head, body = PAPER.split("---\n", 2)
    front = yaml.safe_load(head)
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} <= set(front)
    assert re.findall(r"^# (.*)$", body, re.MULTILINE) == [
        "Summary",
        "Statement of need",
        "State of the field",
        "Software design",
        "Research impact statement",
        "AI usage disclosure",
        "Acknowledgements",
        "References",
    ]
    assert 750 <= len(body.split()) <= 1750


def test_the_paper_cites_what_is_in_its_bibliography() -> None:
    entries = (ROOT / "paper" / "paper.bib").read_text(encoding="utf-8")
    cited = sorted(set(re.findall(r"@([a-z]+\d{4}[a-z]*)", PAPER)))
    assert cited == re.findall(r"^@\w+\{(.*),$", entries, re.MULTILINE)
