"""Sources → the records a stage asked for, or a refusal that names what the source lacks.

One function per purpose. Rows of our own whose label is unresolved (None) are left out; foreign rows that lack a
label are bad rows and follow `bad_rows`. A source in which nothing carries the label is always refused.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

from equipoise.data.contradictions import settle
from equipoise.data.conversations import prompt_of
from equipoise.data.dedupe import unique
from equipoise.data.formats import FORMATS, OWN, name_fields, nearest_format
from equipoise.data.jsonl import RowProblem, refuse
from equipoise.data.read import RECORD_FILES, Loaded, read
from equipoise.data.source import DataSource
from equipoise.errors import DataError
from equipoise.records import (
    Comparison,
    Demonstration,
    PreferencePair,
    Prompt,
    Record,
    RefusalLabel,
    Response,
    SafetyLabel,
    ScoredResponse,
    Side,
)

Need = Literal["helpfulness", "safety"]
RecordT = TypeVar("RecordT", bound=Record)


class _LabelMissingError(DataError):
    """A record of the right kind without the label asked for."""


def load(source: DataSource, files: tuple[str, ...] = RECORD_FILES) -> Loaded:
    """Everything in a source, bad rows refused or dropped as its setting says.

    Raises:
        DataError: The source is missing, empty, broken or in no known format; or rows cannot be used and
            `bad_rows` is `refuse` (names the first five as file:line: reason, and the total); or none is left.
    """
    loaded = read(source, files)
    if source.bad_rows == "refuse" or not loaded.records:
        refuse(list(loaded.problems))
    return loaded


def load_pairs(source: DataSource, need: Need) -> list[PreferencePair]:
    """Pairs that carry the labels a preference model needs.

    `helpfulness`: `more_helpful` is known; comparisons (PandaLM) count as pairs by the majority of their votes.
    `safety`: `safer` and both safety meta-labels are known, contradictions settled as the source says.

    Raises:
        DataError: See `load`; or the pairs lack the label: names the field.
    """
    return select_pairs(load(source, ("pairs.jsonl", "comparisons.jsonl")), need)


def select_pairs(loaded: Loaded, need: Need) -> list[PreferencePair]:
    """The pairs among loaded records that carry the labels `need` asks for; see `load_pairs`."""

    def choose(record: Record) -> list[PreferencePair]:
        if need == "helpfulness" and isinstance(record, Comparison):
            return _pair_by_majority(record)
        pair = _expect(record, PreferencePair)
        lacks = _missing_label(pair, need)
        if lacks:
            raise _LabelMissingError(lacks)
        settled = settle(pair, loaded.source.contradictions) if need == "safety" else pair
        return [] if settled is None else [settled]

    return _select(loaded, f"pair with {need} labels", PreferencePair, choose)


def load_labelled_or_not(source: DataSource) -> list[PreferencePair]:
    """All pairs, whatever labels they carry: for a stage that counts by itself what it cannot use.

    A comparison (PandaLM) is a pair by the majority of its votes, without a label where there is none.

    Raises:
        DataError: See `load`; or the source holds something else: names the field it lacks.
    """

    def choose(record: Record) -> list[PreferencePair]:
        if not isinstance(record, Comparison):
            return [_expect(record, PreferencePair)]
        bare = PreferencePair(prompt=record.prompt, responses=record.responses)
        return _pair_by_majority(record) or [bare]

    loaded = load(source, ("pairs.jsonl", "comparisons.jsonl"))
    return _select(loaded, "pair of responses", PreferencePair, choose)


def load_safety_labels(source: DataSource) -> list[SafetyLabel]:
    """Responses with their safety meta-label, from labels or from both sides of pairs; exact repeats once.

    Contradicting pairs are settled as the source says. A response labelled both ways stays with both labels.

    Raises:
        DataError: See `load`; or there are no safety labels: names the field.
    """
    loaded = load(source, ("safety.jsonl", "pairs.jsonl"))

    def choose(record: Record) -> list[SafetyLabel]:
        if not isinstance(record, PreferencePair):
            return [_expect(record, SafetyLabel)]
        if record.is_safe == (None, None):
            raise _LabelMissingError(_missing_safety(0))
        settled = settle(record, source.contradictions)
        return [] if settled is None else _labels_of(settled)

    labels = _select(loaded, "safety label", SafetyLabel, choose)
    return unique(labels, lambda label: (label.prompt.id, label.response, label.is_safe))


def load_demonstrations(source: DataSource) -> list[Demonstration]:
    """Conversations to imitate.

    Raises:
        DataError: See `load`; or the source holds something else: names the field it lacks.
    """
    loaded = load(source, ("demonstrations.jsonl",))
    return _select(loaded, "demonstration", Demonstration, lambda record: [_expect(record, Demonstration)])


def load_prompts(source: DataSource) -> list[Prompt]:
    """The prompts of any source that carries some, each conversation once.

    The source's `request_kind` is filled in where the record does not know it.

    Raises:
        DataError: See `load`; or there are no prompts.
    """
    loaded = load(
        source, ("prompts.jsonl", "demonstrations.jsonl", "responses.jsonl", "pairs.jsonl", "safety.jsonl")
    )

    def choose(record: Record) -> list[Prompt]:
        prompt = prompt_of(record)
        if prompt.kind is None and source.request_kind is not None:
            prompt = prompt.model_copy(update={"kind": source.request_kind})
        return [prompt]

    return unique(_select(loaded, "prompt", Prompt, choose), lambda prompt: prompt.id)


def load_responses(source: DataSource, *needs: Literal["reward", "cost"]) -> list[ScoredResponse]:
    """Responses with the scores they carry, or what demonstrations show; one without a needed score is a bad row.

    Raises:
        DataError: See `load`; or the source holds something else: names the field it lacks; or a score that is
            needed is missing or not finite: names rows and fields.
    """
    loaded = load(source, ("responses.jsonl", "demonstrations.jsonl"))

    def choose(record: Record) -> list[ScoredResponse]:
        if isinstance(record, Demonstration):
            record = Response(prompt=prompt_of(record), text=record.messages[-1].content)
        given = dict(_expect(record, Response))
        for name in needs:
            if given.get(name) is None:
                raise DataError(f"`{name}` is missing; `equipoise score` adds it")
            if not math.isfinite(given[name]):
                raise DataError(f"`{name}` is {given[name]}, not a finite number")
        return [ScoredResponse(**given)]

    wanted = " ".join(["response", *(["with", " and ".join(needs)] if needs else [])])
    return _select(loaded, wanted, Record, choose)


def load_comparisons(source: DataSource) -> list[Comparison]:
    """Two policies' answers with several annotators' votes.

    Raises:
        DataError: See `load`; or the source holds something else: names the field it lacks.
    """
    loaded = load(source, ("comparisons.jsonl",))
    return _select(loaded, "comparison", Comparison, lambda record: [_expect(record, Comparison)])


def load_refusal_labels(source: DataSource) -> list[RefusalLabel]:
    """Answers with people's verdicts on whether they refuse.

    Raises:
        DataError: See `load`; or the source holds something else: names the field it lacks.
    """
    loaded = load(source, ("refusals.jsonl",))
    return _select(loaded, "refusal label", RefusalLabel, lambda record: [_expect(record, RefusalLabel)])


def _select(
    loaded: Loaded, wanted: str, kind: type[Record], choose: Callable[[Record], list[RecordT]]
) -> list[RecordT]:
    """What `choose` makes of each record; its DataErrors are bad rows, and nothing at all is a refusal."""
    chosen: list[RecordT] = []
    problems: list[RowProblem] = []
    unresolved: list[RowProblem] = []
    for line, record in zip(loaded.lines, loaded.records, strict=True):
        try:
            chosen += choose(record)
        except DataError as error:
            is_left_out = isinstance(error, _LabelMissingError) and loaded.format == OWN.name
            (unresolved if is_left_out else problems).append(RowProblem(loaded.path, line, error.what))
    if not chosen:
        raise _nothing(loaded, wanted, kind, problems + unresolved)
    if loaded.source.bad_rows == "refuse":
        refuse(problems)
    return chosen


def _nothing(loaded: Loaded, wanted: str, kind: type[Record], problems: list[RowProblem]) -> DataError:
    """The refusal of a source that holds not one record of use."""
    has_kind = any(isinstance(record, kind) for record in loaded.records)
    if has_kind and problems:
        why = problems[0].reason
    elif has_kind:
        why = "every pair contradicts itself, and the policy drops those"
    else:
        formats = [form for form in FORMATS if form.gives is kind]
        nearest, lacks = nearest_format(loaded.fields, formats)
        why = f"it is read as {loaded.format}; as {nearest.name} it lacks {name_fields(lacks)}"
    fix = "Use another file, or see docs/data-formats.md for what each format needs."
    if loaded.format == "hh":
        fix = "For a helpful subset set hh_preference = 'more_helpful'; hh has no safety meta-labels."
    return DataError(f"The source holds no {wanted}.", where=loaded.path, why=why, fix=fix)


def _expect(record: Record, kind: type[RecordT]) -> RecordT:
    if not isinstance(record, kind):
        raise DataError(f"the row is a {type(record).__name__}, not a {kind.__name__}")
    return record


def _missing_label(pair: PreferencePair, need: Need) -> str:
    """Which label the pair lacks, by its field in PKU-SafeRLHF and in our records; empty where none."""
    if need == "helpfulness":
        return "" if pair.more_helpful is not None else "`better_response_id` (ours: `more_helpful`) is missing"
    if pair.safer is None:
        return "`safer_response_id` (ours: `safer`) is missing"
    return _missing_safety(pair.is_safe.index(None)) if None in pair.is_safe else ""


def _missing_safety(side: int) -> str:
    return f"`is_response_{side}_safe` (ours: `is_safe`) is missing"


def _labels_of(pair: PreferencePair) -> list[SafetyLabel]:
    return [
        SafetyLabel(
            prompt=pair.prompt,
            response=response,
            is_safe=is_safe,
            categories=categories,
            severity=severity,
            source=pair.source,
        )
        for response, is_safe, categories, severity in zip(
            pair.responses, pair.is_safe, pair.categories, pair.severity, strict=True
        )
        if is_safe is not None
    ]


def _pair_by_majority(comparison: Comparison) -> list[PreferencePair]:
    """The comparison as a helpfulness pair, where more than half of the votes are for one side."""
    for side in (0, 1):
        if 2 * comparison.votes.count(side) > len(comparison.votes):
            winner: Side = side
            return [PreferencePair(prompt=comparison.prompt, responses=comparison.responses, more_helpful=winner)]
    return []
