import csv
import json
import re
from pathlib import Path

import pytest

from equipoise.data.formats import FORMATS, find_format
from equipoise.data.jsonl import Row
from equipoise.data.source import DataSource

PAGE = Path(__file__).parents[2] / "docs" / "data-formats.md"
SECTIONS = dict(re.findall(r"^### `(\w+)`.*?\n(.*?)(?=^##)", PAGE.read_text(encoding="utf-8"), re.M | re.S))


def examples_in(section: str):
    for kind, block in re.findall(r"```(json|csv|text)\n(.*?)```", section, re.S):
        if kind == "json":
            at, block = 0, block.strip()
            while at < len(block):
                value, end = json.JSONDecoder().raw_decode(block[at:])
                yield from value if isinstance(value, list) else [value]
                at += end + len(block[at + end :]) - len(block[at + end :].lstrip())
        else:
            yield from csv.DictReader(block.splitlines()) if kind == "csv" else block.splitlines()


def test_every_format_has_its_section():
    assert set(SECTIONS) == {form.name for form in FORMATS}


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_the_examples_are_read_in_the_format_they_stand_under(name):
    examples = list(examples_in(SECTIONS[name]))
    assert examples
    for example in examples:
        form = find_format("auto", [Row(1, example)], "docs")
        assert form.name == name
        assert form.parse(example, DataSource(path="docs.jsonl").origin).records


def test_every_setting_is_in_the_table():
    table = PAGE.read_text(encoding="utf-8").split("**File types.**")[0]
    assert all(f"`{name}`" in table for name in DataSource.model_fields)
