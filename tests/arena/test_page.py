"""The HTML file: whole, quiet without its script, and made from the records alone."""

import json
import re
from html.parser import HTMLParser

import pytest

from arena.made import record
from sampleprop.lab.arena.page import page

THREE = ("categorical", "counts", "digital-option")


@pytest.fixture(scope="module")
def text() -> str:
    learns = {"learns": ["coefficient"], "needs": "relaxed", "source": 'A "quoted" <paper>'}
    return page(
        [
            record("A<b>", dict.fromkeys(THREE, 0.5)),
            record("Learner", dict.fromkeys(THREE, 2.0), facts=learns),
            record("Biased", dict.fromkeys(THREE, 0.1), facts={"unbiased": False}, bias=0.2, bias_z=9.0),
            record("Refuted", dict.fromkeys(THREE, 0.1), bias=0.2, bias_z=9.0),
        ]
    )


def test_it_needs_no_network_and_no_other_file(text: str) -> None:
    assert not re.findall(r"https?://|src=|<link|@import|url\((?!#)", text)


def test_its_elements_are_closed(text: str) -> None:
    open_: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "input", "br", "path", "use"):
                open_.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("path", "use"):
                assert open_.pop() == tag

    Reader().feed(text)
    assert open_ == []


def test_names_and_sources_are_escaped(text: str) -> None:
    assert "A&lt;b&gt;" in text
    assert "<b>" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "A &quot;quoted&quot; &lt;paper&gt;" in text


def test_each_row_holds_what_the_script_needs(text: str) -> None:
    rows = re.findall(r'<tr class="(\w+)" data-needs="([\w ]+)" data-untrained="(\w+)" data-logs=\'(.*?)\'>', text)
    assert [row[:3] for row in rows] == [
        ("unbiased", "black box", "no"), ("unbiased", "relaxed", "yes"), ("biased", "black box", "no")
    ]  # fmt: skip
    for *_, logs in rows:
        assert {name: len(values) for name, values in json.loads(logs).items()} == dict.fromkeys(THREE, 2)


def test_it_has_pictures_and_every_table(text: str) -> None:
    assert text.count("<svg") == 2
    for title in ("The unbiased", "The biased", "Without a place", "Other rules", "What was measured", "Runs"):
        assert f">{title}</h2>" in text
