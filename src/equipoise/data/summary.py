"""What `equipoise data check` says about a source: counts, balance, contradictions, lengths, bad rows, examples.

Works on text alone; with a tokenizer, `tokens.render` shows the loss mask token by token.
"""

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from equipoise.data.contradictions import contradicts, count_labelled_both_ways
from equipoise.data.conversations import prompt_of, responses_of, to_transcript
from equipoise.data.jsonl import RowProblem
from equipoise.data.read import Loaded, read
from equipoise.data.source import DataSource
from equipoise.errors import DataError
from equipoise.records import Comparison, PreferencePair, Prompt, Record, RefusalLabel, SafetyLabel

_EXAMPLES = 3
_SHOWN_PROBLEMS = 20
_LONGEST_EXAMPLE = 1500


class Lengths(NamedTuple):
    """Lengths of texts: in words between blanks, or in tokens."""

    texts: int
    mean: float
    median: float
    p95: int
    longest: int


class Preferences(NamedTuple):
    """How two decoupled preferences relate: over the pairs that have both, those whose sides differ."""

    both: int
    differ: int


class CheckReport(NamedTuple):
    """What a source holds; `labels` maps each kind of label to how often each value occurs."""

    path: str
    format: str
    counts: dict[str, int]
    kinds: dict[str, int]
    prompts: int
    multi_turn: int
    labels: dict[str, dict[str, int]]
    preferences: Preferences | None
    contradictions: int
    policy: str
    labelled_both_ways: int
    repeated: int
    lengths: dict[str, Lengths]
    problems: tuple[RowProblem, ...]
    examples: tuple[str, ...]


def check(source: DataSource) -> CheckReport:
    """Read a source as far as it goes and describe it; bad rows are listed, never refused.

    Raises:
        DataError: The source is missing, empty, broken as a whole, or in no known format.
        ArtefactError: It is a run directory that is not finished.
    """
    return describe(read(source))


def describe(loaded: Loaded) -> CheckReport:
    """The report on what was read."""
    records = loaded.records
    prompts = [prompt for record in records if (prompt := _prompt(record)) is not None]
    return CheckReport(
        path=loaded.path,
        format=loaded.format,
        counts=loaded.counts,
        kinds=dict(Counter(type(record).__name__ for record in records)),
        prompts=len({prompt.id for prompt in prompts}),
        multi_turn=sum(_user_turns(prompt) > 1 for prompt in prompts),
        labels=_labels(records),
        preferences=_preferences(records),
        contradictions=sum(contradicts(pair) for pair in _pairs(records)),
        policy=loaded.source.contradictions,
        labelled_both_ways=count_labelled_both_ways(records),
        repeated=len(records) - len({_content(record) for record in records}),
        lengths=_lengths(prompts, records),
        problems=loaded.problems,
        examples=tuple(_cut(to_transcript(record)) for record in _spread(records)),
    )


def render(report: CheckReport) -> str:
    """The report as plain text."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items()) or "no records"
    lines = [
        f"{report.path}: {kinds}, format {report.format}",
        "",
        "Counts",
        *(f"  {name}: {count}" for name, count in report.counts.items()),
        f"  different prompts: {report.prompts}",
        f"  records with several user turns: {report.multi_turn}",
        f"  repeated records: {report.repeated}",
        *_render_labels(report),
        "",
        "Lengths in words",
        *(
            f"  {name}: mean {n.mean:.1f}, median {n.median:g}, 95th percentile {n.p95}, longest {n.longest}"
            for name, n in report.lengths.items()
        ),
        *_render_problems(report.problems),
    ]
    if report.examples:
        lines += ["", "Examples (lines with >>> are what a model is trained on or scored on)"]
    for number, example in enumerate(report.examples, start=1):
        lines += [f"-- {number} --", example]
    return "\n".join(lines)


def _render_labels(report: CheckReport) -> list[str]:
    lines = ["", "Labels"] if report.labels else []
    for name, values in report.labels.items():
        total = sum(values.values())
        shares = ", ".join(f"{value} {count} ({count / total:.1%})" for value, count in values.items())
        lines.append(textwrap.fill(f"  {name}: {shares}", 110, subsequent_indent="    ", break_on_hyphens=False))
    if report.preferences is not None:
        both, differ = report.preferences
        lines.append(f"  more helpful is not the safer one: {differ} of {both} ({differ / both:.1%})")
    if "safer" in report.labels:
        lines.append(
            f"  pairs whose rank contradicts their labels: {report.contradictions} (policy: {report.policy})"
        )
    if "safety" in report.labels:
        lines.append(f"  responses labelled both safe and unsafe: {report.labelled_both_ways} (both labels stay)")
    return lines


def _render_problems(problems: Sequence[RowProblem]) -> list[str]:
    if not problems:
        return ["", "Bad rows: none"]
    more = len(problems) - _SHOWN_PROBLEMS
    shown = [f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
    return ["", f"Bad rows: {len(problems)}", *shown, *([f"  … and {more} more"] if more > 0 else [])]


def _labels(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Each kind of label that occurs at all, with the number of each value in order of frequency."""
    counters: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in _labels_of(record):
            counters.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in counters.items() if set(counter) != {"unknown"}}


def _labels_of(record: Record) -> Iterable[tuple[str, str]]:
    prompt = _prompt(record)
    if prompt is not None:
        yield "request", prompt.kind or "unknown"
        yield "request category", prompt.category or "unknown"
    match record:
        case PreferencePair():
            yield "more helpful", _side(record.more_helpful)
            yield "safer", _side(record.safer)
            yield from (("safety", _safety(flag)) for flag in record.is_safe)
            yield from (("severity", str(s)) for s in record.severity if s is not None)
            yield from (("harm category", c) for side in record.categories for c in side)
        case SafetyLabel():
            yield "safety", _safety(record.is_safe)
            yield from (("harm category", category) for category in record.categories)
        case RefusalLabel():
            yield "refusal", record.refusal or "unknown"
        case Comparison():
            yield from (("vote", "tie" if vote == "tie" else _side(vote)) for vote in record.votes)


def _side(side: int | None) -> str:
    return "unknown" if side is None else f"response {side}"


def _safety(is_safe: bool | None) -> str:
    return {True: "safe", False: "unsafe", None: "unknown"}[is_safe]


def _preferences(records: Sequence[Record]) -> Preferences | None:
    both = [pair for pair in _pairs(records) if pair.more_helpful is not None and pair.safer is not None]
    differ = sum(pair.more_helpful != pair.safer for pair in both)
    return Preferences(len(both), differ) if both else None


def _pairs(records: Sequence[Record]) -> list[PreferencePair]:
    return [record for record in records if isinstance(record, PreferencePair)]


def _prompt(record: Record) -> Prompt | None:
    """The record's prompt; None for a demonstration that does not start from a user turn."""
    try:
        return prompt_of(record)
    except DataError:
        return None


def _user_turns(prompt: Prompt) -> int:
    return sum(message.role == "user" for message in prompt.messages)


def _content(record: Record) -> tuple[str, ...]:
    """What makes a record a repeat of another: prompt and responses, in any order."""
    prompt = _prompt(record)
    return (prompt.id if prompt else "", *sorted(responses_of(record)))


def _lengths(prompts: Sequence[Prompt], records: Sequence[Record]) -> dict[str, Lengths]:
    texts = {
        "prompts": [" ".join(message.content for message in prompt.messages) for prompt in prompts],
        "responses": [text for record in records for text in responses_of(record)],
    }
    return {name: lengths_of([len(text.split()) for text in found]) for name, found in texts.items() if found}


def lengths_of(counts: Sequence[int]) -> Lengths:
    """What a list of lengths is like; it is not empty."""
    ordered = sorted(counts)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Lengths(len(ordered), statistics.fmean(ordered), statistics.median(ordered), p95, ordered[-1])


def _spread(records: Sequence[Record]) -> list[Record]:
    """A few records from the whole length of the set."""
    return [records[i * len(records) // _EXAMPLES] for i in range(min(_EXAMPLES, len(records)))]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]} […]"
