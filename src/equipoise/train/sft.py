"""Supervised fine-tuning: a base model and demonstrations in, a policy out.

Loss on assistant turns only, end token included. Left out: the PTX term of RL, which calls the same loss.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.algos.policy import sft_loss
from equipoise.data.load import load_demonstrations
from equipoise.data.source import DataSource, input_paths
from equipoise.data.split import split_by_prompt
from equipoise.errors import DataError
from equipoise.models.backbone import check_fit, load_causal_lm, save_policy
from equipoise.models.devices import pick_dtype
from equipoise.records import Demonstration
from equipoise.runlog import RunLog
from equipoise.tokens.collate import Example, collate_sft, many_sft_examples
from equipoise.tokens.template import load_tokenizer
from equipoise.train.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from equipoise.train.config import SftConfig
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
    seed_dropout,
    shard,
    share,
    whole_batches,
)
from equipoise.train.setup import (
    apply_gradients,
    finite,
    learning_rate,
    length_sorted_batches,
    make_optimizer,
    micro_batches,
    recompute_layers,
    stop_on_interrupt,
    train_adapter,
)
from equipoise.train.sharded import load_device, open_mesh, shard_network, whole, whole_copy


@lost_processes_named()
def train_sft(config: SftConfig) -> Path:
    """Train a policy on demonstrations.

    Args:
        config: Settings; `out` becomes a Hugging Face model directory with a manifest.

    Returns:
        `config.out`.

    Raises:
        DataError, ModelError, ConfigError: Bad input, before the first step.
        TrainingError: The loss is not finite.
    """
    accelerator = begin(config)
    records = [] if is_finished(config) else _load(config.demonstrations)
    inputs = {"model": config.model, **input_paths(config.demonstrations, "demonstrations")}
    build = open_run(accelerator, "policy", config, inputs)
    if build.is_finished:
        return config.out
    tokenizer = load_tokenizer(config.model, template=config.template)
    train, held_out = split_examples(records, tokenizer, config)
    lengths = tuple(len(example.ids) for example in train)
    per_epoch = len(_batches(lengths, config, 0, accelerator))
    total = math.ceil(config.epochs * per_epoch)
    mesh = open_mesh(config.hardware, accelerator)
    device = load_device(accelerator.device, mesh)
    network = load_causal_lm(
        config.model,
        dtype=pick_dtype(config.hardware.precision, accelerator.device),
        device=device,
        quantize=config.quantize,
    )
    train_adapter(network, "policy", config.lora, config.seed)
    recompute_layers(network, config.hardware)
    check_fit(network, tokenizer, max(len(example.ids) for example in (*train, *held_out)))
    shard_network(network, mesh)
    adam = make_optimizer(network, config.optimizer)
    state = load_checkpoint(config.out, {"policy": network}, {"policy": adam}) or {"step": 0}
    model, optimizer = prepared(network, accelerator), accelerator.prepare(adam)
    with (
        RunLog(config.out, total_steps=total, quiet=not accelerator.is_main_process) as log,
        stop_on_interrupt() as stop,
    ):
        log.cut_back(state["step"])
        if config.held_out and not held_out and state["step"] == 0:
            log.warn(1, f"none of {len(train)} examples is held out, so no loss is measured: raise held_out")
        for step in range(state["step"], total):
            seed_dropout(config.seed, step, accelerator)
            epoch, position = divmod(step, per_epoch)
            batch = _batches(lengths, config, epoch, accelerator)[position]
            mine = shard([train[i] for i in batch], accelerator)
            targets = process_sum(sum(len(e.ids) - e.target_from for e in mine), accelerator)
            model.train()
            nll = 0.0
            parts = micro_batches(mine, [e.shape for e in mine], config.micro_batch, config.micro_tokens)
            for number, part in enumerate(parts):
                data = collate_sft(tokenizer, part).to(accelerator.device)
                with training(model, "policy", number, len(parts), accelerator, config):
                    log_probs = target_log_probs(model, data)
                    loss, stats = sft_loss(log_probs, data.target_mask[:, 1:], targets / accelerator.num_processes)
                    accelerator.backward(loss)
                nll += float(stats.nll)
            lr = learning_rate(config.optimizer, step, total)
            loss_now = finite(process_sum(nll, accelerator) / targets, "the SFT loss", step, batch)
            norm = apply_gradients(model, optimizer, config.optimizer, lr)
            metrics = {"loss": loss_now, "grad_norm": float(norm), "lr": lr}
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
    facts = {"steps": total, "examples": len(train), "cut_examples": sum(example.cut for example in train)}
    with whole(network):
        perplexity = _held_out_facts(network, tokenizer, held_out, config, accelerator)
    policy = whole_copy(network, accelerator)
    if policy is not None:
        save_policy(policy, tokenizer, config.out)
        drop_checkpoints(config.out)
        artefact.finish(build, {**facts, **perplexity})
    end(accelerator)
    return config.out


def _load(sources: Sequence[DataSource]) -> list[Demonstration]:
    return [demonstration for source in sources for demonstration in load_demonstrations(source)]


def split_examples(
    records: Sequence[Demonstration], tokenizer: PreTrainedTokenizerBase, config: SftConfig
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples.

    Raises:
        DataError: All are held out.
    """
    train, held_out = split_by_prompt(records, config.held_out, config.seed)
    if not train:
        raise DataError(
            "No demonstration is left to train on.",
            where=", ".join(source.path for source in config.demonstrations),
            why=f"all {len(records)} were held out (held_out = {config.held_out})",
            fix="Lower held_out, or bring more demonstrations.",
        )
    length = config.max_length
    return many_sft_examples(tokenizer, train, length), many_sft_examples(tokenizer, held_out, length)


def _batches(
    lengths: tuple[int, ...], config: SftConfig, epoch: int, accelerator: Accelerator
) -> Sequence[Sequence[int]]:
    return whole_batches(length_sorted_batches(lengths, config.batch_size, config.seed, epoch), accelerator)


@torch.no_grad()
def _held_out_facts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: SftConfig,
    accelerator: Accelerator,
) -> dict[str, float | int]:
    """Perplexity per target token on prompts never trained on."""
    if not examples:
        return {"held_out_examples": 0}
    model.eval()
    sums = {"tokens": 0.0, "nll": 0.0}
    mine, size = share(examples, accelerator), config.micro_batch or config.batch_size
    for part in micro_batches(mine, [e.shape for e in mine], size, config.micro_tokens):
        data = collate_sft(tokenizer, part).to(accelerator.device)
        _, stats = sft_loss(target_log_probs(model, data), data.target_mask[:, 1:], 1.0)
        sums = {"tokens": sums["tokens"] + float(stats.tokens), "nll": sums["nll"] + float(stats.nll)}
    sums = process_sums(sums, accelerator)
    return {"held_out_examples": len(examples), "held_out_perplexity": math.exp(sums["nll"] / sums["tokens"])}
