"""Stage `annotate judge`: a judge answers a project's items and leaves its labels where people leave theirs.

Every item is gone through on every run, those answered before at no cost: their answers are in the store of
answers. So a run that was stopped, by its budget, by a failing endpoint or by force, goes on when the same command
is given again, and ends with the same labels and the same card. Left out: how a judge answers (`model`, `scores`).
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from equipoise import __version__
from equipoise.annotate.judge.card import Run, make_card
from equipoise.annotate.judge.config import EndpointSource, JudgeConfig
from equipoise.annotate.judge.endpoint import BudgetError, Endpoint, Limits, NoAnswerError
from equipoise.annotate.judge.judge import Judge, Judgement
from equipoise.annotate.judge.model import ModelJudge, settle_structure
from equipoise.annotate.judge.page import print_card, write_card
from equipoise.annotate.judge.people import read_people
from equipoise.annotate.judge.questions import Harms, read_rubrics
from equipoise.annotate.labels import Assignment, Item, Label
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.journal import record
from equipoise.annotate.store.judge_answers import ANSWERS_FILE, Answers
from equipoise.annotate.store.project import Project, open_project, settings
from equipoise.errors import ConfigError

CARDS = "judges"
Settings = dict[str, Any]
OpenJudge = Callable[[JudgeConfig, Answers], tuple[Judge, Settings]]
"""Makes a judge that is no endpoint, with what its answers depend on."""


def judge(config: JudgeConfig, open_other: OpenJudge | None = None) -> Path:
    """Let a judge answer a project's items; print and write its card.

    Args:
        config: Settings.
        open_other: Makes the judge where its source is no endpoint.

    Returns:
        The folder with the judge's card.

    Raises:
        StoreError: There is no such project, another judge is at work on it, or labels cannot be saved.
        ConfigError: The settings do not fit together, or those that answers depend on are not this judge's.
        EndpointError: The endpoint does not answer at all.
    """
    name = judge_name(config)
    with open_project(config.project) as store, Answers(config.project / ANSWERS_FILE) as answers:
        items = chosen_items(store, config)
        with opened(config, name, items, answers, settings(store), open_other) as found:
            judging, identity = found
            begin(store, name, identity, len(items))
            outcome = ask_all(judging, items, store, name, config)
        card = make_card(name, identity, items, outcome, read_people(store), answers.spending(name))
    folder = config.project / CARDS / name
    write_card(folder, card)
    print_card(card)
    return folder


def judge_name(config: JudgeConfig) -> str:
    """The judge's name among the labellers: as set, or that of its model."""
    if config.name:
        return config.name
    source = config.source
    given = source.model if isinstance(source, EndpointSource) else f"{source.reward.name}+{source.cost.name}"
    return "".join(c if c.isalnum() or c in ".+-_" else "_" for c in given)


def chosen_items(store: Store, config: JudgeConfig) -> list[Item]:
    """The items to be judged, oldest first.

    Raises:
        ConfigError: There are none.
    """
    items = list(store.items())
    if config.which == "labelled":
        people = {name for name, kind in store.labellers().items() if kind == "person"}
        labels = chain[Label](store.verdicts(), store.rankings())
        known = {label.item for label in labels if label.labeller in people}
        items = [item for item in items if item.id in known]
    if not items:
        why = "no item has a person's label" if config.which == "labelled" else "the project has no items"
        raise ConfigError("There is nothing to judge.", where=str(config.project), why=why)
    return items[: config.limit]


@contextmanager
def opened(
    config: JudgeConfig,
    name: str,
    items: Sequence[Item],
    answers: Answers,
    project: Project,
    open_other: OpenJudge | None,
) -> Iterator[tuple[Judge, Settings]]:
    """The judge with what its answers depend on, checked against what the judge of this name was before.

    Raises:
        ConfigError: It was another one, the rubrics cannot be read, or nobody can make such a judge.
        EndpointError: The endpoint does not answer.
    """
    source = config.source
    if not isinstance(source, EndpointSource):
        if open_other is None:
            raise ConfigError(f"Nothing here makes a judge of type {source.type!r}.")
        judging, identity = open_other(config, answers)
        _check_identity(answers, name, identity)
        yield judging, identity
        return
    harms = harms_of(project)
    rubrics = read_rubrics(source.rubrics, harms)
    kept = {"timeout", "retries", "token_variable", "structure", "rubrics", "input_price", "output_price"}
    identity = {**source.model_dump(mode="json", exclude=kept), "rubrics": rubrics.hash, "harms": list(harms[0])}
    known = answers.settings_of(name)
    if known is not None:  # before anything is sent
        _check_identity(answers, name, {**identity, "structure": known.get("structure")})
    endpoint = Endpoint(source, answers, name, Limits(config.max_calls, config.max_money))
    try:
        if source.structure != "auto" or known is None:
            shortest = min(items, key=lambda item: sum(map(len, [item.prompt.text, *item.responses])))
            has_schema = settle_structure(source, endpoint, rubrics, harms, shortest)
        else:
            has_schema = known["structure"] == "json_schema"
        identity["structure"] = "json_schema" if has_schema else "plain"
        _check_identity(answers, name, identity)
        yield ModelJudge(endpoint, rubrics, harms, has_schema), identity
    finally:
        endpoint.close()


def harms_of(project: Project) -> Harms:
    """What verdicts may name in a project, as a judge reads it."""
    categories = project.taxonomy.categories
    lines = [f"{one.name}: {one.description}" if one.description else one.name for one in categories]
    return Harms(project.taxonomy.names, tuple(lines), project.config.severity)


def _check_identity(answers: Answers, name: str, identity: Mapping[str, Any]) -> None:
    """Keep what a new judge's answers depend on; refuse to go on under a name that stands for something else."""
    known = answers.settings_of(name)
    if known is None:
        answers.keep_settings(name, identity)
        return
    if changed := sorted(key for key in known.keys() | identity.keys() if known.get(key) != identity.get(key)):
        raise ConfigError(
            f"The judge {name!r} has answered with other settings: {', '.join(changed)}.",
            where=str(answers.path),
            why="its labels would mix two judges",
            fix="Give this one another --name.",
        )


def begin(store: Store, name: str, identity: Settings, count: int) -> None:
    """Enter the judge among the labellers, and the run in the journal.

    Raises:
        StoreError: Somebody else has that name.
    """
    with store.transaction():
        store.add_labellers([name], "judge")
        record(store, name, "judge", {"items": count, "version": __version__, **identity}, time.time())


def ask_all(judge: Judge, items: Sequence[Item], store: Store, name: str, config: JudgeConfig) -> Run:
    """Put every item to the judge, several at a time, and save its labels item by item.

    Raises:
        EndpointError: The endpoint will answer nothing at all.
        StoreError: Labels cannot be saved, or are not those that the judge gave before.
    """
    found: dict[str, Judgement] = {}
    failures, in_a_row, stopped = 0, 0, ""
    pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="judge")
    try:
        futures: dict[Future[Judgement], Item] = {pool.submit(judge.judge, item): item for item in items}
        with _progress(len(items)) as advance:
            for future in as_completed(futures):
                try:
                    judgement = future.result()
                except NoAnswerError as error:
                    failures, in_a_row = failures + 1, in_a_row + 1
                    if in_a_row >= config.max_failures:
                        stopped = f"{in_a_row} items in a row got no answer, the last because: {error.why}"
                        break
                except BudgetError as error:
                    stopped = str(error)
                    break
                else:
                    in_a_row = 0
                    _save(store, name, futures[future], judgement)
                    found[judgement.item] = judgement
                advance(failures)
    finally:
        pool.shutdown(cancel_futures=True)
    for future in futures:  # those that were under way when the run was stopped
        if stopped and future.done() and not future.cancelled() and future.exception() is None:
            judgement = future.result()
            _save(store, name, futures[future], judgement)
            found[judgement.item] = judgement
    return Run([found[item.id] for item in items if item.id in found], failures, stopped)


def _save(store: Store, name: str, item: Item, judgement: Judgement) -> None:
    with store.transaction():
        store.assign([Assignment(item.id, name, tuple(range(len(item.responses))))])
        store.add_labels(judgement.labels(name))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal: items done, items without an answer, time left."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total, failed="")

        def advance(failures: int) -> None:
            progress.update(task, advance=1, failed=f"{failures} without answer" if failures else "")

        yield advance
