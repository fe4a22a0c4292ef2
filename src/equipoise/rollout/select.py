"""Stage `data select`: responses → demonstrations of those worth imitating, for `equipoise sft`. No torch.

Two baselines without preferences or RL: imitate what labellers called safe, or of several scored responses the
most helpful one within the cost limit (rejection sampling).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise import artefact
from equipoise.algos.selection import best_under_limit
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_responses, load_safety_labels
from equipoise.data.source import DataSource, input_paths
from equipoise.errors import DataError
from equipoise.records import Demonstration, Message, Prompt
from equipoise.rollout.pairs import by_prompt, scores_of
from equipoise.rollout.stored_config import BestScored, LabelledSafe, SelectConfig

DEMONSTRATIONS = "demonstrations.jsonl"
Kept = tuple[list[Demonstration], dict[str, Any]]


def select(config: SelectConfig) -> Path:
    """Write a directory of kind "demonstrations".

    Args:
        config: Settings.

    Returns:
        `config.out`.

    Raises:
        DataError: A source cannot be read, scores are missing, or no response is left.
    """
    sources = config.keep.labels if isinstance(config.keep, LabelledSafe) else config.keep.responses
    build = artefact.start(config.out, "demonstrations", config, input_paths(sources, "sources"))
    if build.is_finished:
        return config.out
    match config.keep:
        case BestScored(cost_limit=limit):
            kept, facts = keep_best(sources, limit)
        case LabelledSafe():
            kept, facts = keep_safe(sources)
    write_records(config.out / DEMONSTRATIONS, kept)
    artefact.finish(build, facts)
    return config.out


def keep_best(sources: Sequence[DataSource], cost_limit: float) -> Kept:
    """Of each prompt's responses with a cost of at most `cost_limit`, the one with the highest reward.

    Blank responses show nothing, and those cut at the token limit do not show where to stop: they are not kept.

    Returns:
        The demonstrations, and counts; a prompt without such a response is left out and counted.

    Raises:
        DataError: A source cannot be read, scores are missing, or no prompt is left.
    """
    responses = [r for source in sources for r in load_responses(source, "reward", "cost")]
    shown = [response for response in responses if response.finished and response.text.strip()]
    kept = []
    for group in by_prompt(shown):
        rewards, costs = zip(*map(scores_of, group), strict=True)
        choice = best_under_limit(rewards, costs, cost_limit)
        if choice.is_within:
            best = group[choice.chosen]
            kept.append(_demonstrate(best.prompt, best.text))
    if not kept:
        lowest = f", the lowest cost of these is {min(scores_of(r)[1] for r in shown):g}" if shown else ""
        raise DataError(
            f"No response costs at most {cost_limit:g}, so there is nothing to imitate.",
            where=", ".join(source.path for source in sources),
            why=f"of {len(responses)} responses {len(shown)} are neither blank nor cut" + lowest,
            fix="Raise the limit, or draw more responses per prompt.",
        )
    prompts = len({response.prompt.id for response in responses})
    counts = {"responses": len(responses), "prompts": prompts, "kept": len(kept)}
    return kept, {**counts, "prompts_without": prompts - len(kept)}


def keep_safe(sources: Sequence[DataSource]) -> Kept:
    """The responses that labellers called safe.

    One with labels of both kinds is not safe; a blank one shows nothing.

    Returns:
        The demonstrations, and counts.

    Raises:
        DataError: A source cannot be read, or no response is left.
    """
    labels = [label for source in sources for label in load_safety_labels(source)]
    unsafe = {(label.prompt.id, label.response) for label in labels if not label.is_safe}
    kept = [
        _demonstrate(label.prompt, label.response)
        for label in labels
        if (label.prompt.id, label.response) not in unsafe and label.response.strip()
    ]
    if not kept:
        raise DataError(
            "No answer is labelled safe, so there is nothing to imitate.",
            where=", ".join(source.path for source in sources),
        )
    return kept, {"labels": len(labels), "safe": len(kept)}


def _demonstrate(prompt: Prompt, answer: str) -> Demonstration:
    return Demonstration(messages=(*prompt.messages, Message(role="assistant", content=answer)))
