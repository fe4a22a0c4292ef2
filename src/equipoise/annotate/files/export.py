"""`annotate export`: a project's labels as a finished directory of kind `preferences`, and all that is behind it.

Everything is read at one moment, while others go on labelling. Labels are in the order of the item's responses,
whatever the order shown; that one stands beside them. People go by pseudonyms unless their names are asked for.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from equipoise import artefact
from equipoise.annotate.aggregate import Resolved, facts_of, resolve, write_lines, write_preferences
from equipoise.annotate.agreement import agreements, category_agreements, labeller_agreements
from equipoise.annotate.ballots import Ballots, count_in
from equipoise.annotate.config import ExportConfig
from equipoise.annotate.files import pku
from equipoise.annotate.labels import Draft, Item, Question, RankingLabel, question_of
from equipoise.annotate.store.chats import Chat, chats, prompts_of
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.history import Given, answers, given, revisions
from equipoise.annotate.store.project import Project, open_project, settings
from equipoise.annotate.store.rulings import gold_answers, rulings
from equipoise.errors import DataError
from equipoise.records import Record, Verdict


class ItemLine(Item):
    """An item as `items.jsonl` has it."""

    item: str
    is_gold: bool


class LabelLine(Record):
    """One label as `labels.jsonl` has it: a vote, or a lead's ruling, which holds whatever the votes.

    `response` is the position that a verdict is about, None for rankings. `shown[j]` is the position of the
    response shown as the j-th. `revision` counts the times these answers were changed; `replaced_at` is set on
    those that no longer hold. `origin` is the file and line of an imported label; where it is set, `shown` and
    `guideline` are unknown. Times are seconds since 1970.
    """

    item: str
    question: Question
    response: int | None
    value: Verdict | tuple[int, ...]
    labeller: str
    kind: str
    is_ruling: bool = False
    shown: tuple[int, ...] | None = None
    guideline: int | None = None
    opened_at: float | None = None
    finished_at: float | None = None
    revision: int = 0
    replaced_at: float | None = None
    origin: str | None = None


class _Moment(NamedTuple):
    """What the project holds at one moment."""

    project: Project
    items: list[ItemLine]
    labels: list[LabelLine]
    hits: list[Chat]
    ballots: Ballots
    names: Mapping[str, str]


def export(config: ExportConfig) -> Path:
    """Write the directory: what `aggregate` writes, a PKU-SafeRLHF file, every single label, and red-team hits.

    Raises:
        StoreError: There is no project, or it cannot be read.
        ConfigError: The method needs a package that is not installed.
        ArtefactError: `out` holds another run, such as an export of other labels.
        DataError: There are no labels.
    """
    with open_project(config.project) as store, store.snapshot():
        moment = _read(store, config)
    if not moment.labels:
        raise DataError("There are no labels to export.", where=str(config.project))
    with tempfile.TemporaryDirectory() as folder:
        _write_sources(Path(folder), moment)
        build = artefact.start(config.out, "preferences", config, {"labels": Path(folder)})
    if build.is_finished:
        return config.out
    resolved = resolve(moment.ballots, config)
    _write_sources(config.out, moment)
    write_preferences(config.out, resolved)
    _write_agreement(config.out, moment)
    rows = _write_pku(config, resolved, moment.project)
    artefact.finish(build, facts_of(resolved) | _facts(moment, rows))
    return config.out


def _read(store: Store, config: ExportConfig) -> _Moment:
    ballots = Ballots()
    count_in(ballots, store, config.kinds)
    names = pseudonyms(store, config.names)
    gold = gold_answers(store)
    items = [
        ItemLine.model_validate({**item.model_dump(), "item": item.id, "is_gold": item.id in gold})
        for item in store.items()
    ]
    hits = [hit.model_copy(update={"labeller": names[hit.labeller]}) for hit in chats(store, only_hits=True)]
    return _Moment(settings(store), items, list(label_lines(store, names)), hits[::-1], ballots, names)


def pseudonyms(store: Store, keep_names: bool) -> dict[str, str]:
    """What labellers are called: people by a number that stays theirs, judges and simulated ones by their name."""
    kinds = store.labellers()
    if keep_names:
        return {name: name for name in kinds}
    return {name: f"person-{n}" if kind == "person" else name for n, (name, kind) in enumerate(kinds.items(), 1)}


def label_lines(store: Store, names: Mapping[str, str]) -> Iterator[LabelLine]:
    """Every label: those that hold, those that were replaced, and rulings."""
    holding = answers(store)
    for how in given(store):
        yield from _lines(how, holding[how.item, how.labeller], names)
    for how, old in revisions(store):
        yield from _lines(how, old, names)
    for ruling in rulings(store):
        yield LabelLine(
            item=ruling.item,
            question=ruling.question,
            response=ruling.position if isinstance(ruling.value, Verdict) else None,
            value=ruling.value,
            labeller=names[ruling.labeller],
            kind="person",
            is_ruling=True,
            finished_at=ruling.at,
        )


def _lines(how: Given, draft: Draft, names: Mapping[str, str]) -> Iterator[LabelLine]:
    for label in draft.labels(how.item, how.labeller):
        yield LabelLine(
            question=question_of(label),
            response=None if isinstance(label, RankingLabel) else label.position,
            value=label.ranks if isinstance(label, RankingLabel) else label.verdict,
            **{**how._asdict(), "labeller": names[how.labeller]},
        )


def _write_sources(out: Path, moment: _Moment) -> None:
    """What the project holds, as it is: labels, the items they are about, and red-team hits if there are any."""
    write_lines(out / "items.jsonl", moment.items)
    write_lines(out / "labels.jsonl", moment.labels)
    if moment.hits:
        write_lines(out / "prompts.jsonl", prompts_of(moment.hits))
        write_lines(out / "hits.jsonl", moment.hits)


def _write_agreement(out: Path, moment: _Moment) -> None:
    measured = agreements(moment.ballots)
    artefact.write_json(out / "agreement.json", {name: one.model_dump() for name, one in measured.items()})
    details: dict[str, Any] = {
        "categories": {name: one.model_dump() for name, one in category_agreements(moment.ballots).items()},
        "labellers": {
            question: [
                {"labellers": [moment.names[name] for name in pair], **one.model_dump()}
                for pair, one in labeller_agreements(moment.ballots, question).items()
            ]
            for question in measured
        },
    }
    artefact.write_json(out / "agreement_details.json", details)


def _write_pku(config: ExportConfig, resolved: Resolved, project: Project) -> pku.Rows:
    schema = pku.choose_schema(config.pku_schema, resolved.pairs)
    rows = pku.to_rows(resolved.pairs, schema, project.taxonomy.names)
    if rows.rows:
        pku.write(config.out, rows.rows, config.pku_file)
    return rows


def _facts(moment: _Moment, rows: pku.Rows) -> dict[str, Any]:
    holding = [label for label in moment.labels if label.replaced_at is None]
    return {
        "items": len(moment.items),
        "labels": sum(not label.is_ruling for label in holding),
        "rulings": sum(label.is_ruling for label in holding),
        "labellers": len({label.labeller for label in holding}),
        "hits": len(moment.hits),
        "pku_rows": len(rows.rows),
        "pku_left_out": rows.left_out,
    }
