import pytest

from equipoise.data.jsonl import write_records
from equipoise.data.read import read
from equipoise.data.source import DataSource
from equipoise.records import (
    Comparison,
    Demonstration,
    Message,
    PreferencePair,
    Prompt,
    RefusalLabel,
    Response,
    SafetyLabel,
    ScoredResponse,
)

PROMPT = Prompt.from_text("hi", kind="harmless")
ASKED = {"messages": [{"role": "user", "content": "hi"}]}
RECORDS = [
    PROMPT,
    Demonstration(messages=(*PROMPT.messages, Message(role="assistant", content="hello"))),
    Response(prompt=PROMPT, text="hello"),
    ScoredResponse(prompt=PROMPT, text="hello", cost=-1.5),
    SafetyLabel(prompt=PROMPT, response="hello", is_safe=True),
    PreferencePair(prompt=PROMPT, responses=("a", "b")),
    Comparison(prompt=PROMPT, policies=("p", "q"), responses=("a", "b"), votes=(0, "tie")),
    RefusalLabel(prompt=PROMPT, response="no", refusal="full"),
]


@pytest.mark.parametrize("record", RECORDS, ids=[type(record).__name__ for record in RECORDS])
def test_every_kind_of_record_is_known_by_its_fields(tmp_path, record):
    write_records(tmp_path / "x.jsonl", [record])
    loaded = read(DataSource(path=str(tmp_path / "x.jsonl")))
    assert (loaded.format, loaded.records) == ("own", (record,))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": ASKED, "responses": ["a", "b"], "saferr": 1},
            "`saferr`: unknown field; did you mean `safer`?",
        ),
        (
            {"prompt": {**ASKED, "knd": "harmful"}, "responses": ["a", "b"]},
            "`prompt.knd`: unknown field; did you mean `kind`?",
        ),
        ({"prompt": ASKED, "responses": ["a", "b"], "zzz": 1}, "`zzz`: unknown field"),
        (
            {"prompt": ASKED, "responses": ["a", "b"], "safer": "1"},
            "`safer`: Input should be 0 or 1",
        ),
        ({"prompt": ASKED, "response": "a", "is_safe": "yes"}, "`is_safe`: Input should be a valid boolean"),
        (
            {"prompt": ASKED, "response": "a", "is_safe": True, "severity": 4},
            "`severity`: Input should be less than or equal to 3",
        ),
        (
            {"prompt": {"messages": [{"role": "user", "content": " "}]}, "text": "a"},
            "`prompt`: the prompt is empty",
        ),
        ({"prompt": {"messages": []}, "text": "a"}, "`prompt`: a prompt must end with a user turn"),
        ({"prompt": ASKED, "policies": ["p", "q"], "responses": ["a", "b"]}, "`votes`: missing"),
    ],
)
def test_a_row_that_is_no_record_is_bad_for_a_stated_reason(write, row, reason):
    good = {"prompt": ASKED, "responses": ["a", "b"]}
    loaded = read(DataSource(path=str(write("x.jsonl", [good, row]))))
    assert [(problem.line, problem.reason) for problem in loaded.problems] == [(2, reason)]
