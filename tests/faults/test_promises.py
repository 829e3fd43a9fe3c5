"""The page of promises names the tests that hold them."""

import re

from tests.conftest import ROOT
from tests.faults.chaos import TITLES


def test_every_promise_names_files_that_are_there_and_hold_a_test_of_its_fault() -> None:
    rows = re.findall(r"^\| (\d*) ?\| .*\| (`.+) \|$", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)
    assert [number or "fuzz" for number, _ in rows] == [str(each) for each in TITLES]
    for number, named in rows:
        texts = [(ROOT / "tests" / file).read_text() for file in re.findall(r"`(.+?\.py)`", named)]
        mark = f"fault({number})" if number else 'fault("fuzz")'
        assert any(mark in text for text in texts), f"none of {named} has a test of fault {number}"
