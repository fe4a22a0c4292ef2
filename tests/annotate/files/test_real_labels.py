"""Real people's labels through import, against counts by hand and against packages that are not ours."""

import csv
import json
from itertools import combinations

import krippendorff
import numpy as np
import pandas as pd
import pytest

from equipoise.annotate.agreement import agreements
from equipoise.annotate.ballots import Ballots, count_in
from equipoise.annotate.files.imports import import_files
from equipoise.annotate.store.project import open_project


def measured(project):
    ballots = Ballots()
    with open_project(project) as store:
        count_in(ballots, store)
    return {question: one for question, one in agreements(ballots).items() if one.units}


def check_against_oracles(found, votes):
    """`votes`: one row per unit, one column per annotator."""
    pairs = [one == other for row in votes for one, other in combinations(row, 2)]
    assert (found.units, found.raw.n) == (len(votes), len(pairs))
    assert found.raw.value == sum(pairs) / len(pairs)
    alpha = krippendorff.alpha(np.array(votes, dtype=float).T, level_of_measurement="nominal")
    assert found.alpha == pytest.approx(alpha, abs=1e-6)
    assert found.alpha_interval.low < alpha < found.alpha_interval.high
    irr = pytest.importorskip("irrCAC.raw", reason="irrCAC is not installed: see `setup` in the Makefile")
    expected = irr.CAC(pd.DataFrame(votes), digits=9).gwet()["est"]
    assert found.ac1 == pytest.approx(expected["coefficient_value"], abs=1e-6)
    interval = (found.ac1_interval.low, found.ac1_interval.high)
    assert interval == pytest.approx(expected["confidence_interval"], abs=1e-6)


def test_pandalm_s_three_annotators(project, real_data):
    path = real_data / "pandalm" / "testset-v1.json"
    (summary,) = import_files(project, [path])
    assert (summary.rows, summary.items, summary.labels, summary.empty_responses) == (999, 993, 2979, 54)
    assert summary.labellers == ("annotator1", "annotator2", "annotator3")
    assert len(summary.problems) == 6
    assert all(f"{path}:" in line and "(bool), not text" in line for line in summary.problems)
    rows = [
        row
        for row in json.loads(path.read_text(encoding="utf-8"))
        if isinstance(row["response1"], str) and isinstance(row["response2"], str)
    ]
    votes = [[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows]
    found = measured(project)
    assert [*found] == ["helpfulness"]
    check_against_oracles(found["helpfulness"], votes)


def test_xstest_s_two_annotators(project, real_data):
    files = sorted((real_data / "xstest").glob("xstest_v2_completions_*.csv"))
    summaries = import_files(project, files)
    assert [(one.items, one.labels, one.problems) for one in summaries] == [(450, 900, ())] * 4
    votes = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            votes += [[int(row[f"annotation_{n}"][0]) for n in (1, 2)] for row in csv.DictReader(file)]
    found = measured(project)
    assert [*found] == ["refusal"]
    check_against_oracles(found["refusal"], votes)


def test_importing_again_changes_nothing(project, real_data):
    files = [real_data / "pandalm" / "testset-v1.json", *sorted((real_data / "xstest").glob("*_gpt4.csv"))]
    first = import_files(project, files)
    before = measured(project)
    again = import_files(project, files)
    assert [(one.items, one.labels) for one in again] == [(0, 0), (0, 0)]
    assert [(one.known_items, one.known_labels) for one in again] == [(one.items, one.labels) for one in first]
    assert measured(project) == before
