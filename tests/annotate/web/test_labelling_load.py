"""Everybody at once against a real server that is killed in between; the benchmark says how long requests take."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.slow
def test_fifty_people_label_two_thousand_items_while_the_server_is_killed_five_times(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    load = importlib.import_module("labelling_load")
    found = load.run(tmp_path / "team", load.Load())
    print(found)
    assert found["labels"] == 6000
    assert len(found["restarts"]) == 5


def test_a_few_people_label_a_few_items_while_the_server_is_killed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    load = importlib.import_module("labelling_load")
    found = load.run(tmp_path / "team", load.Load(items=12, people=4, kills=1, pause=0.02))
    assert (found["labels"], len(found["restarts"])) == (36, 1)
