import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from equipoise import artefact
from equipoise.annotate import simulate as stage
from equipoise.annotate.config import SimulateConfig
from equipoise.annotate.labels import Item
from equipoise.annotate.simulate import assign_items, group_responses, simulate
from equipoise.annotate.store.core import Store
from equipoise.config import Config, validate
from equipoise.errors import ArtefactError, ConfigError, DataError, StoreError
from equipoise.records import Prompt, Response, Verdict

NO_PANEL = SimulateConfig(out=Path("unused"), responses=(Path("unused"),), labellers="unused:unused")


@dataclass
class Scripted:
    """Longer is more helpful; "bad" is unsafe; the first shown is best on the mixed question."""

    name: str
    seen: list = field(default_factory=list)

    def judge_safety(self, prompt, response, /):
        self.seen.append(prompt)
        is_bad = "bad" in response
        return Verdict(is_safe=not is_bad, categories=("violence",) if is_bad else ())

    def rank(self, prompt, responses, question, verdicts, /):
        assert [v.is_safe for v in verdicts] == ["bad" not in text for text in responses]
        keys = {
            "helpfulness": [-len(text) for text in responses],
            "harmlessness": [not v.is_safe for v in verdicts],
            "single": range(len(responses)),
        }[question]
        return tuple(sorted(set(keys)).index(key) for key in keys)


class Moody(Scripted):
    """Has a memory: answers depend on how often it was asked before."""

    def rank(self, prompt, responses, question, verdicts, /):
        self.seen.append(prompt)
        random.Random(len(self.seen)).shuffle(order := list(range(len(responses))))
        return tuple(order) if question != "harmlessness" else super().rank(prompt, responses, question, verdicts)


class Careless(Scripted):
    def rank(self, prompt, responses, question, verdicts, /):
        return tuple(0 if v.is_safe is False else 1 for v in verdicts)


class Short(Scripted):
    def rank(self, prompt, responses, question, verdicts, /):
        return (0,)


MADE: list[Scripted] = []


def scripted(count, seed):
    MADE[:] = [Scripted(f"labeller-{i}") for i in range(count)]
    return MADE


def moody(count, seed):
    return [Moody(f"labeller-{i}") for i in range(count)]


def careless(count, seed):
    return [Careless(f"labeller-{i}") for i in range(count)]


def short(count, seed):
    return [Short(f"labeller-{i}") for i in range(count)]


def namesakes(count, seed):
    return [Scripted("same") for _ in range(count)]


def write_responses(out: Path, responses) -> Path:
    build = artefact.start(out, "responses", Config(), {})
    lines = [response if isinstance(response, str) else response.model_dump_json() for response in responses]
    (out / "responses.jsonl").write_text("".join(f"{line}\n" for line in lines))
    artefact.finish(build, {})
    return out


def responses_to(number: int, *texts: str, policy="sft"):
    prompt = Prompt.from_text(f"request {number} ?", kind="harmful", category="violence", source="set")
    return [Response(prompt=prompt, text=text, policy=policy, sample=i) for i, text in enumerate(texts)]


def many(prompts: int):
    texts = ("ok .", "a bad one .", "well , fine .")
    return [response for number in range(prompts) for response in responses_to(number, *texts)]


def config(tmp_path: Path, responses, panel="scripted", out="labels", **settings):
    source = tmp_path / "responses"
    if not source.exists():
        write_responses(source, responses)
    return SimulateConfig(
        out=tmp_path / out, responses=(source,), labellers=f"{__name__}:{panel}", labeller_count=5, **settings
    )


def contents(out: Path):
    with Store(out / "labels.sqlite", read_only=True) as store:
        labels = [*store.verdicts(), *store.rankings()]
        return list(store.items()), store.labellers(), list(store.assignments()), labels


def test_every_question_is_answered_by_the_panel_in_the_items_order(tmp_path):
    out = simulate(config(tmp_path, responses_to(1, "ok .", "a bad one .", "well , fine ."), single_share=1.0))
    (item,), labellers, assignments, labels = contents(out)
    assert labellers == {f"labeller-{i}": "simulated" for i in range(5)}
    assert len(assignments) == 3
    assert len(labels) == 3 * (3 + 3)  # three labellers: three verdicts and three rankings each
    for one in assignments:
        mine = {label.question: label.ranks for label in labels[9:] if label.labeller == one.labeller}
        assert dict(zip(item.responses, mine["helpfulness"], strict=True)) == {
            "well , fine .": 0, "a bad one .": 1, "ok .": 2,
        }  # fmt: skip
        assert dict(zip(item.responses, mine["harmlessness"], strict=True))["a bad one ."] == 1
        # The labeller liked what it was shown first, and `shown` says which that was.
        assert [mine["single"][position] for position in one.shown] == [0, 1, 2]


def test_labellers_see_the_conversation_and_nothing_else(tmp_path):
    simulate(config(tmp_path, many(2)))
    seen = [prompt for labeller in MADE for prompt in labeller.seen]
    assert seen
    assert {(p.kind, p.category, p.attack, p.source) for p in seen} == {(None, None, None, "")}


def test_equal_texts_become_one_response_across_policies():
    pool = [*responses_to(1, "yes .", "no .", "yes ."), *responses_to(1, "no .", policy="round-1")]
    (item,) = group_responses(pool, 4, 0.0, seed=0)
    assert sorted(item.responses) == ["no .", "yes ."]
    assert item.source == "round-1, sft"


def test_a_prompt_with_one_distinct_response_is_asked_about_safety_only(tmp_path):
    out = simulate(config(tmp_path, responses_to(1, "same .", "same ."), single_share=1.0))
    (item,), _, _, labels = contents(out)
    assert (item.responses, item.questions) == (("same .",), ("safety",))
    assert len(labels) == 3


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(7, 6, [3, 4]), (6, 6, [6]), (3, 2, [1, 2]), (9, 4, [3, 3, 3])]
)
def test_many_responses_are_dealt_into_items_of_nearly_equal_size(count, most, sizes):
    texts = [f"answer {i}" for i in range(count)]
    items = group_responses(responses_to(1, *texts), most, 0.0, seed=3)
    assert sorted(len(item.responses) for item in items) == sizes
    assert sorted(text for item in items for text in item.responses) == texts


def test_the_mixed_question_is_asked_on_the_configured_share():
    items = group_responses(many(200), 4, 0.25, seed=0)
    assert sum("single" in item.questions for item in items) == 50


def test_assignment_is_balanced_and_nobody_has_an_item_twice():
    items = [Item(prompt=Prompt.from_text(f"{i}"), responses=("a", "b")) for i in range(100)]
    names = [f"labeller-{i}" for i in range(7)]
    given = assign_items(items, names, 3, seed=1)
    load = Counter(one.labeller for one in given)
    assert max(load.values()) - min(load.values()) <= 1
    assert len({(one.item, one.labeller) for one in given}) == 300
    assert set(Counter(one.item for one in given).values()) == {3}
    assert given == assign_items(items, names, 3, seed=1)
    assert given != assign_items(items, names, 3, seed=2)
    # Sides are shuffled: about half of the 300 see the second response first (sd 8.7).
    assert 115 < sum(one.shown == (1, 0) for one in given) < 185


@pytest.mark.parametrize("panel", ["scripted", "moody"])
@pytest.mark.parametrize("fail_at", [0, 1, 3])
def test_a_stage_killed_in_the_middle_and_rerun_equals_an_uninterrupted_one(tmp_path, monkeypatch, panel, fail_at):
    monkeypatch.setattr(stage, "ITEMS_PER_TRANSACTION", 5)
    whole = simulate(config(tmp_path, many(20), panel, "whole", single_share=0.3))
    calls = 0
    original = Store.add_labels

    def dies(self, labels):
        nonlocal calls
        original(self, labels)
        calls += 1
        if calls > fail_at:
            raise KeyboardInterrupt

    broken = config(tmp_path, many(20), panel, "broken", single_share=0.3)
    monkeypatch.setattr(Store, "add_labels", dies)
    with pytest.raises(KeyboardInterrupt):
        simulate(broken)
    monkeypatch.setattr(Store, "add_labels", original)
    assert len(contents(broken.out)[0]) == 5 * fail_at, "whole chunks or nothing"
    with pytest.raises(ArtefactError, match="unfinished"):
        artefact.read_manifest(broken.out)
    assert contents(simulate(broken)) == contents(whole)
    assert sorted(path.name for path in broken.out.iterdir()) == ["labels.sqlite", "manifest.json", "stage.json"]


def test_a_finished_stage_is_not_run_again(tmp_path):
    settings = config(tmp_path, many(3))
    before = (simulate(settings) / "labels.sqlite").read_bytes()
    MADE.clear()
    simulate(settings)
    assert not MADE
    assert (settings.out / "labels.sqlite").read_bytes() == before
    facts = artefact.read_manifest(settings.out, ("labels",)).facts
    assert (facts["responses"], facts["items"], facts["ranked_items"]) == (9, 3, 3)


def test_another_seed_asks_other_labellers(tmp_path):
    first = contents(simulate(config(tmp_path, many(10), seed=0)))
    second = contents(simulate(config(tmp_path, many(10), out="second", seed=1)))
    assert first[2] != second[2]


@pytest.mark.parametrize(("panel", "message"), [("careless", "safe response always"), ("short", "wrong shape")])
def test_an_impossible_answer_of_a_labeller_is_refused(tmp_path, panel, message):
    with pytest.raises(StoreError, match=message):
        simulate(config(tmp_path, many(1), panel))


def test_a_panel_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 different names"):
        simulate(config(tmp_path, many(1), "namesakes"))
    with pytest.raises(ConfigError, match="no function"):
        simulate(config(tmp_path, many(1), "nobody", "other"))
    tree = {**NO_PANEL.model_dump(), "labeller_count": 2, "overlap": 3}
    with pytest.raises(ConfigError, match="overlap 3 needs at least as many labellers"):
        validate(SimulateConfig, tree, where="test")


def asking(tmp_path, source, out="out"):
    return NO_PANEL.model_copy(
        update={"out": tmp_path / out, "responses": (source,), "labellers": f"{__name__}:scripted"}
    )


def test_broken_and_absent_responses_are_refused_by_line(tmp_path):
    good = responses_to(1, "a .")[0].model_dump_json()
    broken = write_responses(tmp_path / "broken", [good, json.dumps({"text": "no prompt"})])
    with pytest.raises(DataError, match=r"broken/responses.jsonl:2"):
        simulate(asking(tmp_path, broken))
    with pytest.raises(DataError, match="no responses to label"):
        simulate(asking(tmp_path, write_responses(tmp_path / "empty", []), "other"))
    with pytest.raises(ArtefactError, match="no finished run directory"):
        simulate(asking(tmp_path, tmp_path / "missing", "third"))
