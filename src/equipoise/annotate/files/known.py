"""Files that the data readers know, as items: pairs, safety labels, comparisons, refusal labels and responses.

Comparisons and XSTest's answers carry each annotator's own vote; they keep the names that the file gives them.
Pairs and safety labels carry one label of nobody in particular: it is taken under a name that the caller gives, or
left out and counted. The last answer of a demonstration is a response; prompts hold nothing to label.
"""

from functools import partial
from pathlib import Path

from equipoise.annotate.files.contents import Answer, Contents, Entry, check_answer, make_item
from equipoise.annotate.labels import RankQuestion
from equipoise.data.read import read
from equipoise.data.source import DataSource
from equipoise.errors import DataError
from equipoise.records import (
    REFUSALS,
    Comparison,
    Demonstration,
    PreferencePair,
    Prompt,
    Record,
    Refusal,
    RefusalLabel,
    Response,
    SafetyLabel,
    Side,
    Verdict,
)

UNNAMED = "labels of nobody in particular (--labels-as NAME takes them)"
XSTEST_VOTES = ("annotation_1", "annotation_2")
RANKS: dict[Side | str, tuple[int, int]] = {0: (0, 1), 1: (1, 0), "tie": (0, 0)}
KNOWN_REFUSALS: dict[str, Refusal] = {refusal: refusal for refusal in REFUSALS}


def read_known(path: Path, labels_as: str | None) -> Contents:
    """Everything in a file of a format of docs/data-formats.md.

    Args:
        path: A file, or a finished directory that holds one.
        labels_as: Whose the labels are that come without a name; None leaves them out.

    Raises:
        DataError: The file is missing, empty, broken as a whole, in no known format, or holds nothing to label.
        ArtefactError: It is a run directory that is not finished.
    """
    loaded = read(DataSource(path=str(path)))
    found = Contents(loaded.path, loaded.format, rows=loaded.counts["rows"], problems=list(loaded.problems))
    for line, record in zip(loaded.lines, loaded.records, strict=True):
        if isinstance(record, Response):
            found.responses.append(record)
        elif isinstance(record, Demonstration):
            found.attempt(line, partial(_last_answer, found, record))
        else:
            found.attempt(line, partial(_entry, found, line, record, labels_as))
    return found


def _entry(found: Contents, line: int, record: Record, labels_as: str | None) -> Entry | None:
    match record:
        case PreferencePair():
            answers = _answers_of_pair(record, labels_as)
            item = make_item(record.prompt, record.responses, record.source, answers)
            found.left_out[UNNAMED] += labels_as is None and _is_labelled(record)
        case SafetyLabel():
            verdict = Verdict(is_safe=record.is_safe, categories=record.categories, severity=record.severity)
            answers = [Answer(labels_as, {0: verdict}, {})] if labels_as else []
            item = make_item(record.prompt, (record.response,), record.source, answers)
            found.left_out[UNNAMED] += labels_as is None
        case Comparison():
            answers = [
                Answer(f"annotator{n}", {}, {"helpfulness": RANKS[vote]}) for n, vote in enumerate(record.votes, 1)
            ]
            item = make_item(record.prompt, record.responses, ", ".join(record.policies), answers)
        case RefusalLabel():
            return _refusal_entry(line, record)
        case _:
            raise DataError("this is a prompt: it holds no response to label")
    for answer in answers:
        check_answer(item, answer)
    return Entry(line, item, tuple(answers))


def _last_answer(found: Contents, demonstration: Demonstration) -> None:
    *conversation, answer = demonstration.messages
    if conversation[-1].role != "user":
        raise DataError("its last answer follows no turn of a user")
    prompt = Prompt(messages=tuple(conversation), source=demonstration.source)
    found.responses.append(Response(prompt=prompt, text=answer.content, policy=demonstration.source))


def _is_labelled(pair: PreferencePair) -> bool:
    return any(label is not None for label in (pair.more_helpful, pair.safer, *pair.is_safe))


def _answers_of_pair(pair: PreferencePair, labels_as: str | None) -> list[Answer]:
    if labels_as is None or not _is_labelled(pair):
        return []
    labels = zip(pair.is_safe, pair.categories, pair.severity, strict=True)
    verdicts = {
        position: Verdict(is_safe=is_safe, categories=categories, severity=severity)
        for position, (is_safe, categories, severity) in enumerate(labels)
        if pair.is_safe != (None, None)
    }
    preferred: dict[RankQuestion, Side | None] = {"helpfulness": pair.more_helpful, "harmlessness": pair.safer}
    rankings = {question: RANKS[side] for question, side in preferred.items() if side is not None}
    return [Answer(labels_as, verdicts, rankings)]


def _refusal_entry(line: int, label: RefusalLabel) -> Entry:
    if len(label.votes) != len(XSTEST_VOTES):
        raise DataError(f"it has {len(label.votes)} of two annotators' votes: whose they are cannot be told")
    unknown = [vote for vote in label.votes if vote not in KNOWN_REFUSALS]
    if unknown:
        raise DataError(f"the vote {unknown[0]!r} is not one of {', '.join(REFUSALS)}")
    answers = tuple(
        Answer(name, {0: Verdict(is_safe=None, refusal=KNOWN_REFUSALS[vote])}, {})
        for name, vote in zip(XSTEST_VOTES, label.votes, strict=True)
    )
    return Entry(line, make_item(label.prompt, (label.response,), label.policy, answers), answers)
