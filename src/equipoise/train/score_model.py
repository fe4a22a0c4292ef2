"""Reward and cost models: one loop, the loss is an argument (METHOD §3).

Each response is scored once per step, however many pairs it stands in. Batches hold whole prompts. Left out: what
the scores are used for.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.data.source import input_paths
from equipoise.errors import ConfigError
from equipoise.models.backbone import check_fit
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import (
    HeadSettings,
    Scorer,
    is_scorer,
    read_head_settings,
    save_scorer,
    scorer_from,
)
from equipoise.runlog import RunLog
from equipoise.stats import wilson
from equipoise.tokens.collate import Collated, collate_costs, collate_rewards
from equipoise.tokens.template import load_tokenizer
from equipoise.train.categories import (
    category_facts,
    count_categories,
    no_category_counts,
    survey_categories,
)
from equipoise.train.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from equipoise.train.config import CostConfig, RewardConfig, ScoreModelConfig
from equipoise.train.memory import training
from equipoise.train.processes import (
    agreed,
    begin,
    end,
    is_finished,
    lost_processes_named,
    open_run,
    prepared,
    process_sum,
    process_sums,
    seed_dropout,
    shard,
    share,
    whole_batches,
)
from equipoise.train.score_data import (
    Group,
    Survey,
    fitting_groups,
    group_micro_batches,
    load_cost_groups,
    load_reward_groups,
    split_groups,
    take_survey,
)
from equipoise.train.score_losses import (
    Counts,
    Loss,
    choose_cost_loss,
    helpfulness,
    ranking_and_sign,
    with_categories,
)
from equipoise.train.setup import (
    apply_gradients,
    finite,
    groups_per_batch,
    learning_rate,
    length_sorted_batches,
    make_optimizer,
    recompute_layers,
    stop_on_interrupt,
    train_adapter,
)
from equipoise.train.sharded import load_device, open_mesh, shard_network, whole, whole_copy


class Kind(NamedTuple):
    """What tells a reward model from a cost model."""

    name: Literal["reward", "cost"]
    load: Callable[[Any], list[Group]]
    collate: Callable[[PreTrainedTokenizerBase, Sequence[Group], int], Collated[Any]]
    loss: Loss
    categories: tuple[str, ...] = ()  # harm categories with a cost of their own


def train_reward(config: RewardConfig) -> Path:
    """Train a reward model on helpfulness preferences; see `train_scorer`."""
    return train_scorer(config, REWARD)


def train_cost(config: CostConfig) -> Path:
    """Train a cost model on harm preferences and safety labels; see `train_scorer`."""
    kind, names = COST._replace(loss=choose_cost_loss(config.loss)), config.categories
    if names:
        loss, collate = (
            with_categories(kind.loss, config.category_weight),
            partial(_collate_cost, categories=names),
        )
        kind = kind._replace(loss=loss, collate=collate, categories=names)
    return train_scorer(config, kind)


@lost_processes_named()
def train_scorer(config: ScoreModelConfig, kind: Kind) -> Path:
    """Train a backbone with a score head; a share of the prompts is held out to measure accuracy.

    Args:
        config: Settings; `out` becomes a scorer directory (AutoModel layout and one head tensor).
        kind: Which labels, which loss.

    Returns:
        `config.out`.

    Raises:
        DataError, ModelError, ConfigError: Bad input, before the first step.
        TrainingError: The loss is not finite.
        KeyboardInterrupt: After Ctrl-C, once the step is finished and saved.
    """
    accelerator = begin(config)
    groups: list[Group] = []
    if not is_finished(config):
        check_start(config, kind)
        groups = kind.load(config)
    build = open_run(accelerator, kind.name, config, _inputs(config))
    if build.is_finished:
        return config.out
    tokenizer = load_tokenizer(config.model, template=config.template)
    fitting = fitting_groups(groups, tokenizer, config)
    train, held_out = split_groups(fitting, config)
    pairs, labels = [pair for g in train for pair in g.pairs], [label for g in train for label in g.labels]
    category_labels = survey_categories(pairs, labels, kind.categories)
    survey = take_survey(tokenizer, (*train, *held_out), config.max_length)
    lengths, size = (
        tuple(group.length for group in train),
        groups_per_batch([g.terms for g in train], config.batch_size),
    )
    per_epoch = len(_batches(lengths, size, config.seed, 0, accelerator))
    total = math.ceil(config.epochs * per_epoch)
    mesh = open_mesh(config.hardware, accelerator)
    network = scorer_from(
        config.model,
        pooling=config.pooling,
        seed=config.seed,
        dtype=pick_dtype(config.hardware.precision, accelerator.device),
        device=load_device(accelerator.device, mesh),
        quantize=config.quantize,
        categories=len(kind.categories),
    )
    train_adapter(network.backbone, kind.name, config.lora, config.seed)
    recompute_layers(network, config.hardware)
    check_fit(network.backbone, tokenizer, max(survey.lengths))
    shard_network(network, mesh)
    adam = make_optimizer(network, config.optimizer)
    state = load_checkpoint(config.out, {kind.name: network}, {kind.name: adam}) or {"step": 0}
    model, optimizer = prepared(network, accelerator), accelerator.prepare(adam)
    with (
        RunLog(config.out, total_steps=total, quiet=not accelerator.is_main_process) as log,
        stop_on_interrupt() as stop,
    ):
        log.cut_back(state["step"])
        if config.held_out and not held_out and state["step"] == 0:
            log.warn(1, f"none of {len(train)} prompts is held out, so no accuracy is measured: raise held_out")
        for step in range(state["step"], total):
            seed_dropout(config.seed, step, accelerator)
            model.train()
            epoch, position = divmod(step, per_epoch)
            batch = _batches(lengths, size, config.seed, epoch, accelerator)[position]
            mine = shard([train[i] for i in batch], accelerator)
            terms = process_sum(sum(group.terms for group in mine), accelerator)
            sums = dict.fromkeys(("loss", *Counts._fields), 0.0)
            parts = group_micro_batches(mine, survey, config, config.micro_batch)
            for number, part in enumerate(parts):
                data = kind.collate(tokenizer, part, config.max_length).batch.to(accelerator.device)
                with training(model, f"{kind.name} model", number, len(parts), accelerator, config):
                    outputs = model(*data.responses.inputs)
                    loss, found = kind.loss(
                        outputs, data, config.regularization, terms / accelerator.num_processes
                    )
                    accelerator.backward(loss)
                for name, value in (("loss", float(loss.detach())), *found._asdict().items()):
                    sums[name] += value
            sums = process_sums(sums, accelerator)
            loss_now = finite(sums.pop("loss") / accelerator.num_processes, f"the {kind.name} loss", step, batch)
            lr = learning_rate(config.optimizer, step, total)
            norm = apply_gradients(model, optimizer, config.optimizer, lr)
            metrics = {"loss": loss_now, **_accuracies(Counts(**sums)), "grad_norm": float(norm), "lr": lr}
            log.log(step + 1, metrics)
            accelerator.log(metrics, step=step + 1)
            stopping = agreed(stop, accelerator)
            due = (step + 1) % config.checkpoint_every == 0 and step + 1 < total
            if stopping or due:
                save_checkpoint(
                    config.out,
                    {"step": step + 1},
                    {kind.name: network},
                    {kind.name: adam},
                    kept=config.checkpoints_kept,
                    writes=accelerator.is_main_process,
                )
            if stopping:
                end(accelerator)
                raise KeyboardInterrupt
    facts = {"steps": total, "prompts": len(train), "pairs": len(pairs), "labels": len(labels)}
    facts |= {"cut_responses": survey.cut, "dropped_prompts": len(groups) - len(fitting), **category_labels}
    with whole(network):
        accuracy = accuracy_facts(network, tokenizer, kind, held_out, survey, config, accelerator)
    scorer = whole_copy(network, accelerator)
    if scorer is not None:
        save_scorer(
            scorer, tokenizer, config.out, HeadSettings(kind.name, config.pooling, categories=kind.categories)
        )
        drop_checkpoints(config.out)
        artefact.finish(build, {**facts, **accuracy})
    end(accelerator)
    return config.out


def check_start(config: ScoreModelConfig, kind: Kind) -> None:
    """Find out before anything loads whether a model can go on from another, where `model` is one.

    Raises:
        ConfigError: It is of the other kind, or has another head; or it may have been trained on prompts that are
            to be held out now.
    """
    if not is_scorer(config.model):
        return
    found, wanted = read_head_settings(config.model), (kind.name, config.pooling, kind.categories)
    if (found.kind, found.pooling, found.categories) != wanted:
        raise ConfigError(
            f"This {kind.name} model cannot go on from a scorer with another head.",
            where=f"model = {config.model}",
            why=f"kind, pooling and categories there: {found.kind}, {found.pooling}, {list(found.categories)}; "
            f"here: {kind.name}, {config.pooling}, {list(kind.categories)}",
            fix="Start from the policy, or from a scorer of the same kind with the same settings.",
        )
    if not (config.model / artefact.MANIFEST).exists():
        return  # of another's making: what it was trained on is not known
    before = artefact.read_manifest(config.model).config
    if before["seed"] != config.seed or before["held_out"] < config.held_out:
        raise ConfigError(
            f"The {kind.name} model that this one goes on from was trained on prompts that would be held out now.",
            where=f"model = {config.model}",
            why=f"it held out {before['held_out']:.0%} with seed {before['seed']}, this one {config.held_out:.0%} "
            f"with seed {config.seed}; accuracies would be too good",
            fix="Take the same seed, and hold out no more than it did.",
        )


@torch.no_grad()
def accuracy_facts(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    groups: Sequence[Group],
    survey: Survey,
    config: ScoreModelConfig,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Accuracies with Wilson intervals on prompts never trained on; absent where nothing asks."""
    model.eval()
    sums = dict.fromkeys(Counts._fields, 0.0) | no_category_counts(kind.categories)
    mine = share(groups, accelerator)
    for part in group_micro_batches(mine, survey, config, 4 * config.batch_size):
        data = kind.collate(tokenizer, part, config.max_length).batch.to(accelerator.device)
        outputs = model(*data.responses.inputs)
        found = kind.loss(outputs, data, 0.0, 1.0)[1]._asdict()
        if kind.categories:
            found |= count_categories(outputs, data, kind.categories)
        sums = {name: value + found[name] for name, value in sums.items()}
    sums = process_sums(sums, accelerator)
    counts = Counts(*(sums[name] for name in Counts._fields))
    facts: dict[str, Any] = {"held_out_prompts": len(groups)}
    if counts.pairs:
        facts["ranking_accuracy"] = wilson(int(counts.ranked), int(counts.pairs), of="pairs").model_dump()
    if counts.signed:
        facts["safety_accuracy"] = wilson(int(counts.right), int(counts.signed), of="labels").model_dump()
    return facts | category_facts(sums, kind.categories)


def _collate_reward(tokenizer: PreTrainedTokenizerBase, groups: Sequence[Group], max_length: int) -> Collated[Any]:
    return collate_rewards(tokenizer, [pair for group in groups for pair in group.pairs], max_length)


def _collate_cost(
    tokenizer: PreTrainedTokenizerBase, groups: Sequence[Group], max_length: int, categories: Sequence[str] = ()
) -> Collated[Any]:
    pairs = [pair for group in groups for pair in group.pairs]
    labels = [label for group in groups for label in group.labels]
    return collate_costs(tokenizer, pairs, labels, max_length, categories=categories)


REWARD = Kind("reward", load_reward_groups, _collate_reward, helpfulness)
COST = Kind("cost", load_cost_groups, _collate_cost, ranking_and_sign)


def _accuracies(counts: Counts) -> dict[str, float]:
    """Shares of this batch; a share of nothing is left out."""
    found = {}
    if counts.pairs:
        found["ranking_accuracy"] = counts.ranked / counts.pairs
    if counts.signed:
        found["safety_accuracy"] = counts.right / counts.signed
    if counts.known:
        found["category_accuracy"] = counts.agreed / counts.known
    if counts.named:
        found["category_recall"] = counts.found / counts.named
    return found


def _inputs(config: ScoreModelConfig) -> dict[str, Path]:
    labels = config.labels if isinstance(config, CostConfig) else ()
    return {"model": config.model, **input_paths(config.pairs, "pairs"), **input_paths(labels, "labels")}


def _batches(
    lengths: tuple[int, ...], size: int, seed: int, epoch: int, accelerator: Accelerator
) -> Sequence[Sequence[int]]:
    return whole_batches(length_sorted_batches(lengths, size, seed, epoch), accelerator)
