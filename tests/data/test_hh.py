import pytest

from equipoise.data.load import load
from equipoise.data.read import read
from equipoise.data.source import DataSource
from equipoise.records import PreferencePair

SHARED = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?"


def read_pairs(path, **settings):
    return [r for r in load(DataSource(path=str(path), **settings)).records if isinstance(r, PreferencePair)]


def test_the_shared_conversation_is_the_prompt(write):
    row = {"chosen": f"{SHARED}\n\nAssistant: because", "rejected": f"{SHARED}\n\nAssistant: dunno\n\nreally"}
    (pair,) = read_pairs(write("x.jsonl.gz", [row]))
    assert [(m.role, m.content) for m in pair.prompt.messages] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "why?"),
    ]
    assert pair.responses == ("because", "dunno\n\nreally")


@pytest.mark.parametrize(("setting", "labels"), [("safer", (0, None)), ("more_helpful", (None, 0))])
def test_the_setting_says_what_chosen_means(write, setting, labels):
    row = {"chosen": f"{SHARED}\n\nAssistant: a", "rejected": f"{SHARED}\n\nAssistant: b"}
    (pair,) = read_pairs(write("x.jsonl", [row]), hh_preference=setting)
    assert (pair.safer, pair.more_helpful) == labels
    assert pair.is_safe == (None, None)


def test_an_empty_answer_is_an_answer(write):
    row = {"chosen": f"{SHARED}\n\nAssistant:", "rejected": f"{SHARED}\n\nAssistant: b"}
    (pair,) = read_pairs(write("x.jsonl", [row]))
    assert pair.responses == ("", "b")


def test_turns_of_one_speaker_are_joined_before_the_transcripts_are_compared(write):
    row = {
        "chosen": f"{SHARED}\n\nAssistant: so\n\nAssistant: it is",
        "rejected": f"{SHARED}\n\nAssistant: no",
    }
    loaded = load(DataSource(path=str(write("x.jsonl", [row]))))
    (pair,) = loaded.records
    assert isinstance(pair, PreferencePair)
    assert pair.responses == ("so\n\nit is", "no")
    assert loaded.counts["conversations with joined turns"] == 1


def test_what_is_no_pair_of_transcripts_is_a_bad_row_with_the_reason(write):
    good = f"{SHARED}\n\nAssistant: a"
    early = "\n\nHuman: hi\n\nAssistant: other\n\nHuman: why?\n\nAssistant: b"
    longer = f"{good}\n\nHuman: and?\n\nAssistant: c"
    rows = [
        {"chosen": good, "rejected": good},
        {"chosen": good, "rejected": early},
        {"chosen": good, "rejected": longer},
        {"chosen": "no speaker", "rejected": good},
        {"chosen": SHARED, "rejected": good},
        {"chosen": None, "rejected": good},
        {"chosen": "\n\nHuman:\n\nAssistant: a", "rejected": "\n\nHuman:\n\nAssistant: b"},
    ]
    loaded = read(DataSource(path=str(write("x.jsonl", rows))))
    assert [(p.line, p.reason) for p in loaded.problems] == [
        (2, "`chosen` and `rejected` part before the last turn (at turn 2)"),
        (3, "`chosen` and `rejected` part before the last turn (at turn 5)"),
        (4, "`chosen` is no transcript: it does not start with 'Human:'"),
        (5, "`chosen` does not go from a Human turn to an Assistant turn"),
        (6, "`chosen` is missing"),
        (7, "the last Human turn of `chosen` is empty"),
    ]
