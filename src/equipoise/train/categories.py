"""What a cost model with harm categories learns from its labels, checked beforehand and counted afterwards.

Left out: the loss (`score_losses.with_categories`) and the outputs themselves (`models.score_head`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from equipoise.algos.preference import CategoryStats, category_stats
from equipoise.errors import DataError
from equipoise.records import PreferencePair, SafetyLabel
from equipoise.stats import wilson
from equipoise.tokens.batches import CostBatch
from equipoise.tokens.collate import category_signs


def survey_categories(
    pairs: Iterable[PreferencePair], labels: Iterable[SafetyLabel], categories: Sequence[str]
) -> dict[str, Any]:
    """How many distinct labelled responses name each category, name others, and do not say; empty without any.

    Raises:
        DataError: No response names one of the categories: its output would be noise.
    """
    if not categories:
        return {}
    sides = [(label.prompt.id, label.response, label.is_safe, label.categories) for label in labels]
    for pair in pairs:
        for text, is_safe, named in zip(pair.responses, pair.is_safe, pair.categories, strict=True):
            sides.append((pair.prompt.id, text, bool(is_safe), named))
    distinct = dict.fromkeys(sides)
    unknown = sum(category_signs(is_safe, named, categories) is None for *_, is_safe, named in distinct)
    counts = Counter(name for *_, is_safe, named in distinct if not is_safe for name in named)
    if missing := [name for name in categories if not counts[name]]:
        raise DataError(
            f"No response to train on is labelled with the category {missing[0]!r}"
            + (f", nor with {len(missing) - 1} others: {', '.join(missing[1:])}." if missing[1:] else "."),
            why=f"the labels name {', '.join(f'{name} ({n})' for name, n in sorted(counts.items())) or 'none'}; "
            f"{unknown} responses do not say",
            fix="Leave it out of `categories`, or add labels that name it.",
        )
    return {
        "category_labels": {name: counts[name] for name in categories},
        "unlisted_categories": {name: n for name, n in sorted(counts.items()) if name not in categories},
        "unknown_categories": unknown,
    }


def no_category_counts(categories: Sequence[str]) -> dict[str, float]:
    """What `count_categories` adds to."""
    return {f"{name}: {what}": 0.0 for what in CategoryStats._fields for name in categories}


def count_categories(outputs: Tensor, batch: CostBatch, categories: Sequence[str]) -> dict[str, float]:
    """The counts of `category_stats` by name, over the responses of a batch whose label says their categories.

    Args:
        outputs: (N, 1 + K), the cost first.
        batch: Their labels.
        categories: K names.
    """
    known = batch.category_known
    stats = category_stats(outputs[known, 1:], batch.category_signs[known])
    return {
        f"{name}: {what}": float(count)
        for what, counts in stats._asdict().items()
        for name, count in zip(categories, counts, strict=True)
    }


def category_facts(sums: Mapping[str, float], categories: Sequence[str]) -> dict[str, Any]:
    """Accuracy and recall of each category with Wilson intervals; None where no label asks, empty without any."""

    def share(name: str, hits: str, of: str) -> dict[str, Any] | None:
        n = int(sums[f"{name}: {of}"])
        return wilson(int(sums[f"{name}: {hits}"]), n, of="labels").model_dump() if n else None

    found = {
        name: {"accuracy": share(name, "correct", "responses"), "recall": share(name, "found", "named")}
        for name in categories
    }
    return {"categories": found} if found else {}
