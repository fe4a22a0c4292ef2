"""Supervised fine-tuning: a base model and demonstrations in, a policy out.

Loss on assistant turns only, end token included. Left out: the PTX term of RL, which calls the same loss.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.algos.policy import SftStats, sft_loss
from equipoise.data.load import load_demonstrations
from equipoise.data.source import DataSource, input_paths
from equipoise.data.split import split_by_prompt
from equipoise.models.backbone import load_causal_lm, save_policy
from equipoise.models.devices import pick_dtype
from equipoise.records import Demonstration
from equipoise.runlog import RunLog
from equipoise.tokens.collate import Example, collate_sft, sft_examples
from equipoise.tokens.template import load_tokenizer
from equipoise.train.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from equipoise.train.config import SftConfig
from equipoise.train.forward import target_log_probs
from equipoise.train.setup import (
    apply_gradients,
    begin,
    finite,
    learning_rate,
    length_sorted_batches,
    make_optimizer,
    micro_batches,
    process_sum,
    seed_step,
    shard,
    stop_on_interrupt,
)


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
    build = artefact.start(
        config.out,
        "policy",
        config,
        {"model": config.model, **input_paths(config.demonstrations, "demonstrations")},
    )
    if build.is_finished:
        return config.out
    accelerator = begin(config.hardware)
    tokenizer = load_tokenizer(config.model, template=config.template)
    train, held_out = _load_split(config, tokenizer)
    lengths = tuple(len(example.ids) for example in train)
    per_epoch = len(length_sorted_batches(lengths, config.batch_size, config.seed, 0))
    total = math.ceil(config.epochs * per_epoch)
    network = load_causal_lm(
        config.model, dtype=pick_dtype(config.hardware.precision, accelerator.device), device=accelerator.device
    )
    adam = make_optimizer(network, config.optimizer)
    state = load_checkpoint(config.out, {"policy": network}, {"policy": adam}) or {"step": 0}
    model, optimizer = accelerator.prepare(network, adam)
    with (
        RunLog(config.out, total_steps=total, quiet=not accelerator.is_main_process) as log,
        stop_on_interrupt() as stop,
    ):
        log.cut_back(state["step"])
        for step in range(state["step"], total):
            seed_step(config.seed, step)
            epoch, position = divmod(step, per_epoch)
            batch = length_sorted_batches(lengths, config.batch_size, config.seed, epoch)[position]
            mine = shard([train[i] for i in batch], accelerator)
            targets = process_sum(sum(len(e.ids) - e.target_from for e in mine), accelerator)
            model.train()
            nll = 0.0
            for part in micro_batches(mine, config.micro_batch):
                data = collate_sft(tokenizer, part).to(accelerator.device)
                loss, stats = sft_loss(
                    target_log_probs(model, data), data.target_mask[:, 1:], targets / accelerator.num_processes
                )
                accelerator.backward(loss)
                nll += float(stats.nll)
            lr = learning_rate(config.optimizer, step, total)
            loss_now = finite(process_sum(nll, accelerator) / targets, "the SFT loss", step, batch)
            norm = apply_gradients(model, optimizer, config.optimizer, lr)
            log.log(step + 1, {"loss": loss_now, "grad_norm": float(norm), "lr": lr})
            if stop.asked or ((step + 1) % config.checkpoint_every == 0 and step + 1 < total):
                save_checkpoint(
                    config.out,
                    {"step": step + 1},
                    {"policy": network},
                    {"policy": adam},
                    kept=config.checkpoints_kept,
                )
            if stop.asked:
                raise KeyboardInterrupt
    save_policy(network, tokenizer, config.out)
    facts = {"steps": total, "examples": len(train), **_held_out_facts(network, tokenizer, held_out, config)}
    drop_checkpoints(config.out)
    artefact.finish(build, facts)
    return config.out


def load_examples(
    sources: Sequence[DataSource], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    """Every assistant turn of some files of demonstrations, as tokens."""
    return _examples([d for source in sources for d in load_demonstrations(source)], tokenizer, max_length)


def _examples(
    demonstrations: Sequence[Demonstration], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Example]:
    return [example for d in demonstrations for example in sft_examples(tokenizer, d, max_length)]


def _load_split(config: SftConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], list[Example]]:
    records = [d for source in config.demonstrations for d in load_demonstrations(source)]
    train, held_out = split_by_prompt(records, config.held_out, config.seed)
    return _examples(train, tokenizer, config.max_length), _examples(held_out, tokenizer, config.max_length)


@torch.no_grad()
def _held_out_facts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], config: SftConfig
) -> dict[str, float | int]:
    """Perplexity per target token on prompts never trained on."""
    if not examples:
        return {"held_out_examples": 0}
    model.eval()
    device = next(model.parameters()).device
    sums: list[SftStats] = []
    for part in micro_batches(examples, config.micro_batch or config.batch_size):
        data = collate_sft(tokenizer, part).to(device)
        sums.append(sft_loss(target_log_probs(model, data), data.target_mask[:, 1:], 1.0)[1])
    tokens, nll = (sum(float(stats[i]) for stats in sums) for i in (0, 1))
    return {"held_out_examples": len(examples), "held_out_perplexity": math.exp(nll / tokens)}
