"""Stage `annotate simulate`: a panel of simulated labellers answers through the same store as anybody.

Responses are grouped by prompt into items, items are assigned to labellers, and every labeller is asked the
decoupled questions (on a share of the items also the mixed one). A rerun after an interruption asks everything
again from the beginning and adds what is missing, so labellers need no memory of their own.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from equipoise import artefact
from equipoise.annotate.config import SimulateConfig
from equipoise.annotate.labeller import Labeller
from equipoise.annotate.labels import (
    DECOUPLED,
    Assignment,
    Item,
    Label,
    RankingLabel,
    VerdictLabel,
    check_ranks,
)
from equipoise.annotate.store.core import STORE_FILE, Store
from equipoise.config import resolve_function
from equipoise.errors import ConfigError, DataError
from equipoise.records import Prompt, Response

RESPONSES_FILE = "responses.jsonl"
ITEMS_PER_TRANSACTION = 500


def simulate(config: SimulateConfig) -> Path:
    """Write a finished directory of kind `labels` that holds `labels.sqlite`.

    Raises:
        ArtefactError: An input is no finished directory of responses, or `out` holds another run.
        ConfigError: The panel cannot be made or does not fit the settings.
        DataError: The responses are broken, or there are none.
        StoreError: A labeller gave an impossible answer, or another one than before the interruption.
    """
    for path in config.responses:
        artefact.read_manifest(path, ("responses",))
    inputs = {f"responses-{i}": path for i, path in enumerate(config.responses)}
    build = artefact.start(config.out, "labels", config, inputs)
    if build.is_finished:
        return config.out
    panel = make_panel(config)
    responses = [r for path in config.responses for r in read_responses(path / RESPONSES_FILE)]
    if not responses:
        raise DataError("There are no responses to label.", where=", ".join(map(str, config.responses)))
    items = group_responses(responses, config.responses_per_item, config.single_share, config.seed)
    with Store(config.out / STORE_FILE) as store:
        store.add_labellers(panel, "simulated")
        ask_panel(store, items, panel, config.overlap, config.seed)
        store.seal()
    artefact.finish(build, _facts(responses, items, panel, config.overlap))
    return config.out


def _facts(
    responses: Sequence[Response], items: Sequence[Item], panel: dict[str, Labeller], overlap: int
) -> artefact.Facts:
    return {
        "responses": len(responses),
        "distinct_responses": sum(len(item.responses) for item in items),
        "items": len(items),
        "ranked_items": sum(len(item.responses) > 1 for item in items),
        "items_with_single_question": sum("single" in item.questions for item in items),
        "labellers": len(panel),
        "labels_per_item": overlap,
    }


def read_responses(path: Path) -> Iterator[Response]:
    """The responses in a JSON lines file.

    Raises:
        DataError: A line is no response; names file and line.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield Response.model_validate_json(line)
            except ValidationError as error:
                raise DataError("This is no response.", where=f"{path}:{number}", why=str(error)) from error


def make_panel(config: SimulateConfig) -> dict[str, Labeller]:
    """The labellers that the settings name, by name.

    Raises:
        ConfigError: There is no such function, it makes fewer labellers than the overlap, or two share a name.
    """
    labellers: Sequence[Labeller] = resolve_function(config.labellers)(
        count=config.labeller_count, seed=config.seed
    )
    panel = {labeller.name: labeller for labeller in labellers}
    if len(panel) < max(len(labellers), config.overlap):
        raise ConfigError(
            f"The panel has {len(labellers)} labellers with {len(panel)} different names.",
            where=config.labellers,
            why=f"every item goes to {config.overlap} different labellers, told apart by name",
        )
    return panel


def group_responses(responses: Iterable[Response], most: int, single_share: float, seed: int) -> list[Item]:
    """Items of the distinct responses to each prompt, in the order in which prompts first appear.

    Args:
        responses: Any number per prompt; equal texts to one prompt become one.
        most: K, the most responses in an item; more are dealt into items of nearly equal size. A response left
            alone is asked about its safety only.
        single_share: Share of the ranked items that also get the mixed question, rounded to a whole number.
        seed: Shuffles the responses of a prompt and draws the share.
    """
    prompts: dict[str, Prompt] = {}
    policies: dict[str, dict[str, set[str]]] = {}
    for response in responses:
        prompts.setdefault(response.prompt.id, response.prompt)
        by_text = policies.setdefault(response.prompt.id, {})
        by_text.setdefault(response.text, set()).add(response.policy)
    items = [
        Item(
            prompt=prompts[prompt_id],
            responses=tuple(texts),
            questions=DECOUPLED if len(texts) > 1 else ("safety",),
            source=", ".join(sorted({p for text in texts for p in by_text[text] if p})),
        )
        for prompt_id, by_text in policies.items()
        for texts in _deal(sorted(by_text, key=lambda text: _digest(seed, prompt_id, text)), most)
    ]
    ranked = [i for i, item in enumerate(items) if len(item.responses) > 1]
    drawn = random.Random(f"single {seed}").sample(ranked, round(single_share * len(ranked)))
    for i in drawn:
        items[i] = items[i].model_copy(update={"questions": (*DECOUPLED, "single")})
    return items


def _deal(texts: Sequence[str], most: int) -> list[Sequence[str]]:
    groups = -(-len(texts) // most)
    return [texts[len(texts) * g // groups : len(texts) * (g + 1) // groups] for g in range(groups)]


def _digest(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()


def assign_items(items: Sequence[Item], names: Sequence[str], overlap: int, seed: int) -> list[Assignment]:
    """Give every item to `overlap` different labellers so that no two labellers' loads differ by more than one.

    Each labeller sees an item's responses in an order of their own.
    """
    generator = random.Random(f"assign {seed}")
    load = dict.fromkeys(names, 0)
    assignments = []
    for item in items:
        chosen = sorted(names, key=lambda name: (load[name], generator.random()))[:overlap]
        for name in chosen:
            load[name] += 1
            count = len(item.responses)
            assignments.append(Assignment(item.id, name, tuple(generator.sample(range(count), count))))
    return assignments


def ask_panel(store: Store, items: Sequence[Item], panel: dict[str, Labeller], overlap: int, seed: int) -> None:
    """Put the items, their assignments and every labeller's answers into the store, some items at a time.

    Raises:
        StoreError: A labeller gave an impossible answer, or another one than the store holds.
    """
    assignments = assign_items(items, list(panel), overlap, seed)
    for start in range(0, len(items), ITEMS_PER_TRANSACTION):
        chunk = items[start : start + ITEMS_PER_TRANSACTION]
        given = assignments[start * overlap : (start + ITEMS_PER_TRANSACTION) * overlap]
        by_id = {item.id: item for item in chunk}
        with store.transaction():
            store.add_items(chunk)
            store.assign(given)
            store.add_labels(
                [label for one in given for label in answer(panel[one.labeller], by_id[one.item], one)]
            )


def answer(labeller: Labeller, item: Item, given: Assignment) -> list[Label]:
    """One labeller's labels for one item: safety of each response, then the rankings that the item asks for."""
    prompt = Prompt(messages=item.prompt.messages)
    texts = [item.responses[position] for position in given.shown]
    verdicts = [labeller.judge_safety(prompt, text) for text in texts]
    labels: list[Label] = [
        VerdictLabel(item.id, given.labeller, position, verdict)
        for position, verdict in zip(given.shown, verdicts, strict=True)
    ]
    for question in item.rank_questions:
        ranks = labeller.rank(prompt, texts, question, verdicts)
        where = f"item {item.id}, labeller {given.labeller!r}, {question}"
        by_position = dict(zip(given.shown, check_ranks(ranks, len(texts), where=where), strict=True))
        in_order = tuple(by_position[position] for position in range(len(texts)))
        labels.append(RankingLabel(item.id, given.labeller, question, in_order))
    return labels
