"""Direct preference training: a policy and preference pairs in, a policy out, without reward model or sampling.

One loop for all methods (DPO, SafeDPO, MODPO); SACPO is two runs of it. What the reference says is computed once
before the first step. Left out: how pairs are ranked (`direct_methods`) and how λ is found offline (MoCAN, PeCAN).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.algos.direct import DirectStats
from equipoise.data.source import input_paths
from equipoise.models.backbone import check_fit, load_causal_lm, save_policy
from equipoise.models.devices import pick_dtype
from equipoise.rollout.config import GuardScore, ModelScore
from equipoise.runlog import RunLog
from equipoise.stats import wilson
from equipoise.tokens.template import load_tokenizer
from equipoise.train.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from equipoise.train.direct_config import DirectConfig, Modpo
from equipoise.train.direct_frozen import ask_reference, check_frozen, longest, score_other, shared_log_probs
from equipoise.train.direct_methods import choose_loss
from equipoise.train.direct_pairs import (
    Chosen,
    Item,
    choose_pairs,
    collate,
    split,
    tokenize,
)
from equipoise.train.forward import target_log_probs
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
    shard,
    whole_batches,
)
from equipoise.train.setup import (
    apply_gradients,
    finite,
    groups_per_batch,
    learning_rate,
    length_sorted_batches,
    make_optimizer,
    micro_batches,
    recompute_layers,
    stop_on_interrupt,
    train_adapter,
    without_dropout,
)
from equipoise.train.sharded import load_device, open_mesh, shard_network, whole, whole_copy


@lost_processes_named()
def train_direct(config: DirectConfig) -> Path:
    """Train a policy on preference pairs.

    Args:
        config: Settings; `out` becomes a Hugging Face model directory with a manifest.

    Returns:
        `config.out`.

    Raises:
        DataError, ModelError, ConfigError: Bad input, before the first step.
        TrainingError, EquipoiseError: The loss is not finite, the device runs out of memory, a scorer fails.
        KeyboardInterrupt: After Ctrl-C, once the step is finished and saved.
    """
    accelerator = begin(config)
    chosen = None if is_finished(config) else choose_pairs(config)
    build = open_run(accelerator, "policy", config, _inputs(config))
    if build.is_finished or chosen is None:
        return config.out
    tokenizer = load_tokenizer(config.policy)
    check_frozen(config, tokenizer)
    train, held_out = split(tokenize(chosen, tokenizer, config), config)
    lengths = tuple(one.shape.length for one in train)
    size = groups_per_batch([len(one.group.pairs) for one in train], config.batch_size)
    per_epoch = len(_batches(lengths, size, config, 0, accelerator))
    total = math.ceil(config.epochs * per_epoch)
    mesh = open_mesh(config.hardware, accelerator)
    scored = score_other([*train, *held_out], config, accelerator, mesh)
    network = load_causal_lm(
        config.policy,
        dtype=pick_dtype(config.hardware.precision, accelerator.device),
        device=load_device(accelerator.device, mesh),
        quantize=config.quantize,
    )
    train_adapter(network, "policy", config.lora, config.seed)
    without_dropout(network)  # the reference has none: at the first step h is 0
    recompute_layers(network, config.hardware)
    check_fit(network, tokenizer, longest(scored))
    shard_network(network, mesh)
    items = ask_reference(network, tokenizer, scored, config, accelerator, mesh)
    train_items, held_out_items = items[: len(train)], items[len(train) :]
    adam = make_optimizer(network, config.optimizer)
    state = load_checkpoint(config.out, {"policy": network}, {"policy": adam}) or {"step": 0}
    model, optimizer = prepared(network, accelerator), accelerator.prepare(adam)
    pair_loss = choose_loss(config.method, config.beta)
    with (
        RunLog(config.out, total_steps=total, quiet=not accelerator.is_main_process) as log,
        stop_on_interrupt() as stop,
    ):
        log.cut_back(state["step"])
        if state["step"] == 0:
            _warn(log, chosen, len(held_out), config)
        for step in range(state["step"], total):
            epoch, position = divmod(step, per_epoch)
            batch = _batches(lengths, size, config, epoch, accelerator)[position]
            mine = shard([train_items[i] for i in batch], accelerator)
            pairs = process_sum(sum(len(item.pairs) for item in mine), accelerator)
            sums = dict.fromkeys(("loss", *DirectStats._fields), 0.0)
            parts = _micro_batches(mine, config)
            for number, part in enumerate(parts):
                data = collate(tokenizer, part).to(accelerator.device)
                with training(model, "policy", number, len(parts), accelerator, config):
                    ratios = target_log_probs(model, data.answers).sum(dim=1) - data.ref_log_probs
                    winners, losers = ratios[data.winners], ratios[data.losers]
                    loss, stats = pair_loss(winners, losers, data.gaps, pairs / accelerator.num_processes)
                    accelerator.backward(loss)
                for name, value in (("loss", loss.detach()), *stats._asdict().items()):
                    sums[name] += float(value)
            sums = process_sums(sums, accelerator)
            loss_now = finite(sums.pop("loss") / accelerator.num_processes, "the preference loss", step, batch)
            lr = learning_rate(config.optimizer, step, total)
            norm = apply_gradients(model, optimizer, config.optimizer, lr)
            metrics = {"loss": loss_now, **_means(sums), "grad_norm": float(norm), "lr": lr}
            log.log(step + 1, metrics)
            accelerator.log(metrics, step=step + 1)
            stopping = agreed(stop, accelerator)
            due = (step + 1) % config.checkpoint_every == 0 and step + 1 < total
            if stopping or due:
                save_checkpoint(
                    config.out,
                    {"step": step + 1},
                    {"policy": network},
                    {"policy": adam},
                    kept=config.checkpoints_kept,
                    writes=accelerator.is_main_process,
                )
            if stopping:
                end(accelerator)
                raise KeyboardInterrupt
    facts: dict[str, Any] = {"steps": total, "prompts": len(train)}
    facts |= {"pairs": sum(len(item.pairs) for item in train_items), "swapped_pairs": chosen.swapped}
    facts["left_out_pairs"] = {reason: n for reason, n in sorted(chosen.left_out.items()) if n}
    with whole(network):
        facts |= _held_out_facts(network, tokenizer, held_out_items, config, accelerator)
    policy = whole_copy(network, accelerator)
    if policy is not None:
        save_policy(policy, tokenizer, config.out)
        drop_checkpoints(config.out)
        artefact.finish(build, facts)
    end(accelerator)
    return config.out


def _held_out_facts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    config: DirectConfig,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Loss, implicit accuracy with its Wilson interval, and margin on prompts never trained on."""
    facts: dict[str, Any] = {"held_out_prompts": len(items), "held_out_pairs": sum(len(i.pairs) for i in items)}
    if not items:
        return facts
    answers = [answer for item in items for answer in item.tokenized.answers]
    log_probs = torch.tensor(shared_log_probs(model, tokenizer, answers, config, accelerator))
    data = collate(tokenizer, items)
    ratios = log_probs - data.ref_log_probs
    loss, stats = choose_loss(config.method, config.beta)(
        ratios[data.winners], ratios[data.losers], data.gaps, len(data.winners)
    )
    sums = {name: float(value) for name, value in stats._asdict().items()}
    accuracy = wilson(int(sums["correct"]), int(sums["pairs"]), of="pairs").model_dump()
    means = {f"held_out_{name}": value for name, value in _means(sums).items()}
    return facts | means | {"held_out_loss": float(loss), "held_out_implicit_accuracy": accuracy}


def _means(sums: dict[str, float]) -> dict[str, float]:
    """What a batch's sums say per pair."""
    pairs = sums["pairs"]
    return {
        "implicit_accuracy": sums["correct"] / pairs,
        "margin": sums["margin"] / pairs,
        "winner_log_ratio": sums["winners"] / pairs,
        "loser_log_ratio": sums["losers"] / pairs,
    }


def _warn(log: RunLog, chosen: Chosen, held_out: int, config: DirectConfig) -> None:
    """Say how many pairs are not used, and why; and that nothing is held out, if so."""
    reasons = [f"{reason} {number}" for reason, number in sorted(chosen.left_out.items()) if number]
    if reasons:
        log.warn(1, f"pairs left out: {', '.join(reasons)}")
    if config.held_out and not held_out:
        log.warn(1, "no prompt is held out, so no implicit accuracy is measured: raise held_out")


def _micro_batches(items: Sequence[Item], config: DirectConfig) -> list[Sequence[Item]]:
    """The groups that go through the network together: about `micro_batch` pairs each, or by `micro_tokens`."""
    size = groups_per_batch([len(item.pairs) for item in items], config.micro_batch)
    return micro_batches(items, [item.tokenized.shape for item in items], size, config.micro_tokens)


def _batches(
    lengths: tuple[int, ...], size: int, config: DirectConfig, epoch: int, accelerator: Accelerator
) -> Sequence[Sequence[int]]:
    return whole_batches(length_sorted_batches(lengths, size, config.seed, epoch), accelerator)


def _inputs(config: DirectConfig) -> dict[str, Path]:
    found = {"policy": config.policy, **input_paths(config.pairs, "pairs")}
    if config.ref is not None:
        found["ref"] = config.ref
    if isinstance(config.method, Modpo) and isinstance(config.method.other, ModelScore | GuardScore):
        found["other"] = config.method.other.path
    return found
