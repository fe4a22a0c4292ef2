import sys
from types import ModuleType

import pytest
from pydantic import ValidationError

from equipoise import artefact
from equipoise.config import Config
from equipoise.data.jsonl import write_records
from equipoise.data.load import (
    load,
    load_comparisons,
    load_demonstrations,
    load_pairs,
    load_prompts,
    load_refusal_labels,
    load_responses,
    load_safety_labels,
)
from equipoise.data.source import DataSource, input_paths, local_inputs
from equipoise.errors import ArtefactError, DataError
from equipoise.records import Demonstration, Message, PreferencePair, Prompt, SafetyLabel

HI = Prompt.from_text("hi")


def source(path, **settings):
    return DataSource(path=str(path), **settings)


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def test_missing_and_empty_files_are_refused(write, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load(source(tmp_path / "x.json"))
    for name, content in {"x.json": "", "y.json": "[]", "z.csv": "a,b\n", "w.jsonl": "\n\n", "v.txt": ""}.items():
        with pytest.raises(DataError, match="empty"):
            load(source(write(name, content)))


def test_bad_rows_are_refused_by_default_naming_five_and_the_total(write):
    path = write("x.jsonl", [{"prompt": "a"}, *[{"prompt": ""}] * 7])
    with pytest.raises(DataError) as error:
        load(source(path))
    message = str(error.value)
    assert message.startswith("7 row(s) cannot be used")
    assert [f"{path}:{line}: `prompt` is empty" in message for line in range(2, 9)] == [True] * 5 + [False] * 2
    assert "2 more" in message


def test_bad_rows_are_dropped_and_counted_when_asked(write):
    loaded = load(source(write("x.jsonl", '{"prompt": "a"}\n{"prompt":\n{"prompt": ""}\n'), bad_rows="drop"))
    assert loaded.counts == {"rows": 3, "records": 1, "bad rows": 2, "empty responses": 0}
    assert [problem.line for problem in loaded.problems] == [2, 3]


def test_a_file_of_bad_rows_alone_is_refused_whatever_the_policy(write):
    with pytest.raises(DataError, match="`prompt` is empty"):
        load(source(write("x.jsonl", [{"prompt": ""}]), bad_rows="drop"))
    with pytest.raises(DataError, match="line 1 is broken JSON"):
        load(source(write("x.jsonl", "{]\n}{"), bad_rows="drop"))


def test_the_limit_counts_rows(write):
    assert len(load(source(write("x.json", ["a", "b", "c"]), limit=2)).records) == 2


def test_helpfulness_pairs_need_the_helpfulness_label(write, pku_row):
    path = write("x.json", [without(pku_row, "better_response_id")])
    with pytest.raises(DataError, match="better_response_id"):
        load_pairs(source(path), need="helpfulness")
    assert len(load_pairs(source(path), need="safety")) == 1


@pytest.mark.parametrize("field", ["safer_response_id", "is_response_0_safe", "is_response_1_safe"])
def test_safety_pairs_need_the_preference_and_both_meta_labels(write, pku_row, field):
    path = write("x.json", [without(pku_row, field)])
    with pytest.raises(DataError, match=field):
        load_pairs(source(path), need="safety")
    assert len(load_pairs(source(path), need="helpfulness")) == 1


def test_some_foreign_rows_without_the_label_are_bad_rows(write, pku_row):
    path = write("x.jsonl", [pku_row, without(pku_row, "better_response_id")])
    with pytest.raises(DataError, match=r"x\.jsonl:2: `better_response_id`"):
        load_pairs(source(path), need="helpfulness")
    assert len(load_pairs(source(path, bad_rows="drop"), need="helpfulness")) == 1


def test_unresolved_labels_of_our_own_are_left_out(tmp_path):
    pairs = [PreferencePair(prompt=HI, responses=("a", "b"), more_helpful=side) for side in (0, None, 1)]
    write_records(tmp_path / "x.jsonl", pairs)
    assert load_pairs(source(tmp_path / "x.jsonl"), need="helpfulness") == [pairs[0], pairs[2]]
    with pytest.raises(DataError, match=r"safer_response_id.*ours: `safer`"):
        load_pairs(source(tmp_path / "x.jsonl"), need="safety")


def test_a_file_of_another_kind_is_refused_naming_the_fields_it_lacks(write):
    labels = source(write("x.jsonl", [{"prompt": "a", "response": "b", "is_safe": True}]))
    for load_it, lacks in [
        (lambda s: load_pairs(s, need="safety"), "`response_0`, `response_1`"),
        (load_demonstrations, "no demonstration"),
        (load_comparisons, "`cmp_key`"),
        (load_refusal_labels, "`final_label`"),
    ]:
        with pytest.raises(DataError, match=lacks):
            load_it(labels)
    with pytest.raises(DataError, match="`response`, `is_safe`"):
        load_safety_labels(source(write("y.txt", "a\n")))


def test_hh_without_a_helpful_preference_says_how_to_set_it(write):
    shared = "\n\nHuman: hi\n\nAssistant:"
    path = write("x.jsonl", [{"chosen": f"{shared} a", "rejected": f"{shared} b"}])
    with pytest.raises(DataError, match="hh_preference = 'more_helpful'"):
        load_pairs(source(path), need="helpfulness")
    assert len(load_pairs(source(path, hh_preference="more_helpful"), need="helpfulness")) == 1
    with pytest.raises(DataError, match="is_response_0_safe"):
        load_pairs(source(path), need="safety")


@pytest.mark.parametrize(
    ("votes", "winner"),
    [((1, 1, 2), 0), ((2, 2, 0), 1), ((1, 1, 0), 0), ((1, 2, 0), None), ((1, 0, 0), None)],
)
def test_a_comparison_is_a_helpfulness_pair_by_more_than_half_of_its_votes(write, votes, winner):
    base = {"cmp_key": "p_q", "instruction": "add", "input": "", "response1": "a", "response2": "b"}
    # the first row is clear, so that the file is never without a usable pair
    rows = [{**base, **{f"annotator{i + 1}": vote for i, vote in enumerate(v)}} for v in ((1, 1, 1), votes)]
    pairs = load_pairs(source(write("x.json", rows)), need="helpfulness")
    assert [pair.more_helpful for pair in pairs[1:]] == ([] if winner is None else [winner])


def contradicting(pku_row):
    return {**pku_row, "is_response_0_safe": True, "is_response_1_safe": False, "safer_response_id": 1}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("drop", []), ("trust_label", [(0, (True, False))]), ("trust_rank", [(1, (False, True))])],
)
def test_contradicting_pairs_follow_the_policy_wherever_safety_is_read(write, pku_row, policy, expected):
    path = write("x.json", [pku_row, contradicting(pku_row)])
    loaded = load(source(path, contradictions=policy))
    assert loaded.contradictions == 1
    pairs = load_pairs(source(path, contradictions=policy), need="safety")
    assert [(pair.safer, pair.is_safe) for pair in pairs[1:]] == expected
    labels = {(label.response, label.is_safe) for label in load_safety_labels(source(path, contradictions=policy))}
    consistent = {("Use a whetstone.", True), ("Do not.", True)}
    added = {"drop": set(), "trust_label": {("Do not.", False)}, "trust_rank": {("Use a whetstone.", False)}}
    assert labels == consistent | added[policy]


def test_helpfulness_does_not_depend_on_contradicting_safety_labels(write, pku_row):
    assert len(load_pairs(source(write("x.json", [contradicting(pku_row)])), need="helpfulness")) == 1
    with pytest.raises(DataError, match="every pair contradicts itself"):
        load_pairs(source(write("x.json", [contradicting(pku_row)])), need="safety")


def test_safety_labels_say_each_thing_once_but_keep_both_of_two_labels(write, pku_row):
    other = {**pku_row, "is_response_0_safe": False, "safer_response_id": 1}
    labels = load_safety_labels(source(write("x.json", [pku_row, pku_row, other])))
    assert [(label.response, label.is_safe) for label in labels] == [
        ("Use a whetstone.", True),
        ("Do not.", True),
        ("Use a whetstone.", False),
    ]


def test_prompts_come_from_any_format_each_once(write, pku_row):
    assert [p.text for p in load_prompts(source(write("x.json", [pku_row, pku_row])))] == [pku_row["prompt"]]
    shown = {"instruction": "add", "output": "3"}
    assert [p.text for p in load_prompts(source(write("y.json", [shown])))] == ["add"]


def test_the_stated_kind_fills_in_only_what_is_unknown(tmp_path):
    known, unknown = Prompt.from_text("a", kind="harmless"), Prompt.from_text("b")
    write_records(tmp_path / "x.jsonl", [known, unknown])
    prompts = load_prompts(source(tmp_path / "x.jsonl", request_kind="harmful"))
    assert [p.kind for p in prompts] == ["harmless", "harmful"]


def test_the_prompt_of_a_demonstration_is_what_comes_before_its_last_turn(tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    write_records(tmp_path / "x.jsonl", [Demonstration(messages=messages)])
    (prompt,) = load_prompts(source(tmp_path / "x.jsonl"))
    assert prompt.messages == messages[:3]


class StageConfig(Config):
    seed: int = 0


def test_a_finished_directory_is_read_through_its_record_file(tmp_path):
    build = artefact.start(tmp_path / "out", "preferences", StageConfig(), {})
    pair = PreferencePair(prompt=HI, responses=("a", "b"), safer=0, is_safe=(True, False))
    label = SafetyLabel(prompt=HI, response="c", is_safe=False)
    write_records(build.out / "pairs.jsonl", [pair])
    write_records(build.out / "safety.jsonl", [label])
    with pytest.raises(ArtefactError, match="unfinished"):
        load_pairs(source(build.out), need="safety")
    artefact.finish(build, {})
    assert load_pairs(source(build.out), need="safety") == [pair]
    assert load_safety_labels(source(build.out)) == [label]
    with pytest.raises(DataError, match=r"none of demonstrations\.jsonl"):
        load_demonstrations(source(build.out))


def test_settings_come_as_a_table_or_as_a_path_alone():
    assert DataSource.model_validate("x.json") == DataSource(path="x.json")
    with pytest.raises(ValidationError):
        DataSource.model_validate({"path": "x.json", "formt": "hh"})


def test_hub_names_are_told_from_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sft").mkdir()
    hub = ["PKU-Alignment/PKU-SafeRLHF", "Anthropic/hh-rlhf:test", "a/b:train[:10%]"]
    local = ["runs/sft", "data/x.json", "data/x.jsonl.gz", "/data/x", "a/b/c", "x.txt", "../x"]
    assert all(DataSource(path=path).is_hub for path in hub)
    assert not any(DataSource(path=path).is_hub for path in local)
    sources = {"pairs": DataSource(path="runs/sft"), "more": DataSource(path=hub[0])}
    assert [*local_inputs(**sources)] == ["pairs"]
    assert [*input_paths([*sources.values()], "data")] == ["data-0"]


def fake_datasets(monkeypatch, load_dataset):
    """Stands in for the hub: the only edge that would need the network."""
    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.exceptions = ModuleType("datasets.exceptions")
    module.exceptions.DatasetsError = type("DatasetsError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_hub_set_is_asked_for_by_name_split_subset_and_folder(monkeypatch, pku_row):
    calls = []

    def load_dataset(path, **rest):
        calls.append((path, rest))
        return [pku_row, {**pku_row, "prompt": ""}]

    fake_datasets(monkeypatch, load_dataset)
    wanted = source("org/set:test", subset="big", folder="part", bad_rows="drop")
    assert len(load_pairs(wanted, need="helpfulness")) == 1
    assert calls == [("org/set", {"name": "big", "data_dir": "part", "split": "test"})]
    with pytest.raises(DataError, match="org/set:2: `prompt` is empty"):
        load_pairs(source("org/set"), need="helpfulness")


def test_a_hub_set_that_cannot_be_reached_says_so(monkeypatch):
    def load_dataset(path, **rest):
        raise ConnectionError("no route to the hub")

    fake_datasets(monkeypatch, load_dataset)
    with pytest.raises(DataError, match="no route to the hub"):
        load(source("org/set"))


def test_what_demonstrations_show_are_responses_without_scores(write):
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    (found,) = load_responses(source(write("demonstrations.jsonl", [row])))
    assert (found.prompt.id, found.text, found.reward, found.cost) == (HI.id, "hello", None, None)
    with pytest.raises(DataError, match="`cost` is missing"):
        load_responses(source(write("demonstrations.jsonl", [row])), "cost")


def test_a_score_that_is_no_finite_number_is_a_bad_row(write):
    row = '{"prompt": {"messages": [{"role": "user", "content": "hi"}]}, "text": "a", "reward": NaN}'
    assert len(load_responses(source(write("x.jsonl", row)))) == 1
    with pytest.raises(DataError, match="`reward` is nan, not a finite number"):
        load_responses(source(write("x.jsonl", row)), "reward")
