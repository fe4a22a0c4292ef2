"""Every public set is read with the counts that its notes state. Skipped where the data are not there."""

import pytest

from equipoise.data.load import (
    load_comparisons,
    load_demonstrations,
    load_pairs,
    load_prompts,
    load_refusal_labels,
    load_safety_labels,
)
from equipoise.data.source import DataSource
from equipoise.data.summary import check, render
from equipoise.errors import DataError


def source(folder, name, **settings):
    return DataSource(path=str(folder / name), **settings)


def test_pku_pairs_disagree_in_19_of_32(real_data):
    pairs = source(real_data, "pku_safe_rlhf/pairs_32.json")
    report = check(pairs)
    assert report.preferences == (32, 19)
    assert report.counts["bad rows"] == report.contradictions == 0
    assert len(load_pairs(pairs, need="helpfulness")) == len(load_pairs(pairs, need="safety")) == 32


def test_pku_newer_schema_has_categories_and_severity(real_data):
    pairs = load_pairs(source(real_data, "pku_safe_rlhf/new_schema_3.jsonl"), need="safety")
    assert len(pairs) == 3
    assert pairs[2].categories == (("Endangering National Security", "Violence"), ())
    assert pairs[2].severity == (1, 0)


def test_pku_safety_pairs_have_no_helpfulness_label_and_some_responses_on_both_sides(real_data):
    pairs = source(real_data, "pku_safe_rlhf/safety_pairs_dev.jsonl")
    report = check(pairs)
    assert (report.counts["records"], report.prompts) == (2431, 641)
    assert report.labels["safety"] == {"unsafe": 2431, "safe": 2431}
    assert (report.contradictions, report.labelled_both_ways) == (0, 295)
    assert "labelled both safe and unsafe: 295" in render(report)
    assert len(load_pairs(pairs, need="safety")) == 2431
    with pytest.raises(DataError, match="better_response_id"):
        load_pairs(pairs, need="helpfulness")


def test_beavertails_is_57_3_per_cent_unsafe(real_data):
    labels = source(real_data, "beavertails/beavertails_3011.jsonl")
    report = check(labels)
    assert report.labels["safety"] == {"unsafe": 1725, "safe": 1286}
    assert "unsafe 1725 (57.3%)" in render(report)
    assert len(load_safety_labels(labels)) == 3009  # two rows repeat others


def test_beavertails_evaluation_spans_14_categories(real_data):
    prompts = load_prompts(source(real_data, "beavertails/BeaverTails-Evaluation.json"))
    assert len(prompts) == 691
    assert len({prompt.category for prompt in prompts}) == 14


def test_hh_is_71_per_cent_multi_turn_and_wholly_usable(real_data):
    pairs = source(real_data, "hh_rlhf/test.jsonl.gz", hh_preference="more_helpful")
    report = check(pairs)
    assert (report.counts["records"], report.counts["bad rows"]) == (2312, 0)
    assert round(report.multi_turn / 2312, 2) == 0.71
    assert (report.counts["empty responses"], report.counts["conversations with joined turns"]) == (4, 9)
    assert len(load_pairs(pairs, need="helpfulness")) == 2312


def test_pandalm_refuses_six_rows_by_name_and_counts_54_empty_answers(real_data):
    name = "pandalm/testset-v1.json"
    report = check(source(real_data, name))
    assert (report.counts["rows"], report.counts["bad rows"], report.counts["empty responses"]) == (999, 6, 54)
    assert all("(bool), not text" in problem.reason for problem in report.problems)
    with pytest.raises(DataError, match=r"6 row\(s\)"):
        load_comparisons(source(real_data, name))
    comparisons = load_comparisons(source(real_data, name, bad_rows="drop"))
    assert len(comparisons) == 993
    assert len({policy for c in comparisons for policy in c.policies}) == 5


def test_xstest_has_250_safe_and_200_unsafe_prompts(real_data):
    report = check(source(real_data, "xstest/xstest_prompts.csv"))
    assert report.labels["request"] == {"look_alike": 250, "harmful": 200}


@pytest.mark.parametrize(
    ("policy", "refusals"),
    [
        ("gpt4", {"none": 230, "full": 211, "partial": 9}),
        ("llama2new", {"full": 230, "none": 176, "partial": 44}),
        ("mistralguard", {"none": 210, "full": 199, "partial": 41}),
        ("mistralinstruct", {"none": 374, "full": 49, "partial": 27}),
    ],
)
def test_xstest_completions_carry_the_people_s_verdicts(real_data, policy, refusals):
    completions = source(real_data, f"xstest/xstest_v2_completions_{policy}.csv")
    assert check(completions).labels["refusal"] == refusals
    labels = load_refusal_labels(completions)
    assert {label.policy for label in labels} == {policy}
    assert all(len(label.votes) == 2 for label in labels)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("harmful_train", 259),
        ("harmful_val", 38),
        ("harmless_val", 6264),
        ("jailbreakbench", 97),
        ("malicious_instruct", 100),
        ("strongreject", 307),
    ],
)
def test_red_team_prompt_lists(real_data, name, count):
    assert len(load_prompts(source(real_data, f"redteam_prompts/{name}.json"))) == count


def test_seed_tasks_are_175_demonstrations(real_data):
    assert len(load_demonstrations(source(real_data, "sft/seed_tasks.jsonl"))) == 175


def test_gptfuzz_is_refused_naming_the_prompt_it_lacks(real_data):
    with pytest.raises(DataError, match="lacks `prompt`"):
        check(source(real_data, "gptfuzz/train.csv"))
