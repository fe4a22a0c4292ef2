"""What a stage has to go through: its largest forward pass, its steps, its tokens, and what is trained on.

Read from the data where they lie on this machine; else from the limits in the settings. Left out: memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from equipoise.data.load import load_demonstrations, load_prompts
from equipoise.data.source import DataSource
from equipoise.data.split import split_by_prompt
from equipoise.data.summary import Lengths, lengths_of
from equipoise.records import Record
from equipoise.rollout.respond import fitting_prompts
from equipoise.tokens.collate import Example, sft_examples
from equipoise.tokens.render import EXAMPLES, masked_examples, render_with_mask
from equipoise.tokens.template import load_tokenizer, many_prompt_ids, many_response_ids
from equipoise.train.config import CostConfig, PpoLagConfig, RewardConfig, ScoreModelConfig, SftConfig
from equipoise.train.score_model import COST, REWARD, Group, groups_per_batch, split_groups
from equipoise.train.setup import batch_at, length_sorted_batches, micro_batches


class Pass(NamedTuple):
    """One forward pass."""

    rows: int
    length: int  # tokens of a row, padding included
    targets: int  # tokens whose logits are computed; 0 for a score

    @property
    def cells(self) -> int:
        """What its memory grows with."""
        return self.rows * self.length


@dataclass(frozen=True)
class Work:
    """What `sft`, `reward` or `cost` goes through."""

    largest: Pass  # for ppo-lag: the largest of the PTX term, 0 rows where there is none
    passes: int  # in a step
    steps: int | None  # optimizer steps of the stage; None: the data are not there
    prompts: int | None
    tokens: dict[str, Lengths] = field(default_factory=dict)
    tokens_per_epoch: int | None = None
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PpoWork(Work):
    """What `ppo-lag` goes through."""

    rows: int = 0  # responses of a step
    micro: int = 0  # of them in one training pass
    prompt: int = 0  # tokens of the longest prompt
    ptx_passes: int = 0


def sft_work(config: SftConfig) -> Work:
    """The work of `sft`.

    Raises:
        DataError, ModelError: Data or tokenizer are there and cannot be used.
    """
    size = config.micro_batch or config.batch_size
    passes = -(-config.batch_size // size)
    if missing := _missing(config.demonstrations):
        limit = Pass(min(size, config.batch_size), config.max_length, size * (config.max_length - 1))
        return Work(limit, passes, None, None, notes=(missing,))
    tokenizer = load_tokenizer(config.model, template=config.template)
    records = [d for source in config.demonstrations for d in load_demonstrations(source)]
    kept, _ = split_by_prompt(records, config.held_out, config.seed)
    examples = [e for d in kept for e in sft_examples(tokenizer, d, config.max_length)]
    lengths = tuple(len(e.ids) for e in examples)
    epochs = range(math.ceil(config.epochs))
    batches = [b for k in epochs for b in length_sorted_batches(lengths, config.batch_size, config.seed, k)]
    return Work(
        largest=_largest_sft([[examples[i] for i in batch] for batch in batches], config.micro_batch),
        passes=passes,
        steps=math.ceil(config.epochs * len(batches) / len(epochs)),
        prompts=len(examples),
        tokens={
            "prompts": lengths_of([e.target_from for e in examples]),
            "responses": lengths_of([len(e.ids) - e.target_from for e in examples]),
        },
        tokens_per_epoch=sum(lengths),
        examples=tuple(masked_examples(kept, tokenizer, config.max_length)),
    )


def score_model_work(config: ScoreModelConfig) -> Work:
    """The work of `reward` or `cost`; errors as in `sft_work`."""
    size = config.micro_batch or config.batch_size
    if missing := _missing([*config.pairs, *(config.labels if isinstance(config, CostConfig) else ())]):
        limit = Pass(2 * min(size, config.batch_size), config.max_length, 0)
        return Work(limit, -(-config.batch_size // size), None, None, notes=(missing,))
    kind = REWARD if isinstance(config, RewardConfig) else COST
    tokenizer = load_tokenizer(config.model, template=config.template)
    groups, _ = split_groups(kind.load(config), config)
    needed = [_response_lengths(tokenizer, group, config.max_length) for group in groups]
    keys = tuple(group.length for group in groups)
    per_batch = groups_per_batch(groups, config.batch_size)
    epochs = range(math.ceil(config.epochs))
    batches = [b for k in epochs for b in length_sorted_batches(keys, per_batch, config.seed, k)]
    passes = [
        [Pass(sum(len(needed[i]) for i in part), max(max(needed[i]) for i in part), 0) for part in parts]
        for batch in batches
        if (parts := micro_batches(batch, groups_per_batch([groups[i] for i in batch], config.micro_batch)))
    ]
    records: list[Record] = [r for group in groups for r in (group.pairs or group.labels)[:1]]
    return Work(
        largest=max((one for parts in passes for one in parts), key=lambda one: one.cells),
        passes=max(map(len, passes)),
        steps=math.ceil(config.epochs * len(batches) / len(epochs)),
        prompts=len(groups),
        tokens={"prompt and response": lengths_of([n for lengths in needed for n in lengths])},
        tokens_per_epoch=sum(map(sum, needed)),
        examples=tuple(masked_examples(records, tokenizer, config.max_length))[:EXAMPLES],
    )


def ppo_lag_work(config: PpoLagConfig) -> PpoWork:
    """The work of `ppo-lag`; every response is taken to reach the limit. Errors as in `sft_work`."""
    rows = config.batch_size
    micro = min(config.micro_batch or rows, rows)
    limit = config.sampling.max_new_tokens
    ptx_rows = (config.ptx_batch_size or rows) if config.ptx else 0
    ptx_micro = min(config.micro_batch or ptx_rows, ptx_rows)
    passes, ptx_passes = -(-rows // micro), -(-ptx_rows // ptx_micro) if ptx_micro else 0
    largest = Pass(ptx_micro, config.max_length, ptx_micro * (config.max_length - 1))
    if missing := _missing([*config.prompts, *config.ptx]):
        return PpoWork(
            largest, passes, config.steps, None, notes=(missing,), rows=rows, micro=micro,
            prompt=config.max_prompt_length, ptx_passes=ptx_passes,
        )  # fmt: skip
    tokenizer = load_tokenizer(config.actor)
    found = [prompt for source in config.prompts for prompt in load_prompts(source)]
    prompts = fitting_prompts(tokenizer, found, config.max_prompt_length, config.too_long)
    ids = many_prompt_ids(tokenizer, [prompt.messages for prompt in prompts])
    steps = config.steps or math.ceil(config.epochs * len(prompts) / rows)
    shown = [render_with_mask(tokenizer, Example(one, len(one), cut=False)) for one in ids[:EXAMPLES]]
    if config.ptx:
        records = [d for source in config.ptx for d in load_demonstrations(source)]
        ptx = [e for d in records for e in sft_examples(tokenizer, d, config.max_length)]
        drawn = [batch_at(len(ptx), ptx_rows, config.seed + 1, step) for step in range(steps)]
        largest = _largest_sft([[ptx[i] for i in batch] for batch in drawn], config.micro_batch)
        shown += masked_examples(records, tokenizer, config.max_length)
    lengths = [len(one) for one in ids]
    return PpoWork(
        largest=largest, passes=passes, steps=steps, prompts=len(prompts), tokens={"prompts": lengths_of(lengths)},
        tokens_per_epoch=sum(lengths) + limit * len(lengths), examples=tuple(shown),
        notes=(f"every response is taken to reach the limit of {limit} tokens",),
        rows=rows, micro=micro, prompt=max(lengths), ptx_passes=ptx_passes,
    )  # fmt: skip


def _largest_sft(batches: Sequence[Sequence[Example]], size: int | None) -> Pass:
    parts = [part for batch in batches for part in micro_batches(batch, size)]
    passes = (
        Pass(len(part), max(len(e.ids) for e in part), sum(len(e.ids) - e.target_from for e in part))
        for part in parts
    )
    return max(passes, key=lambda one: one.cells)


def _response_lengths(tokenizer: PreTrainedTokenizerBase, group: Group, max_length: int) -> list[int]:
    """Tokens of each response of a prompt, with the prompt and the end of the turn."""
    [prompt] = many_prompt_ids(tokenizer, [group.prompt.messages])
    return [min(max_length, len(prompt) + len(r) + 1) for r in many_response_ids(tokenizer, list(group.texts))]


def _missing(sources: Sequence[DataSource]) -> str:
    """Which data are not on this machine, in words; empty where all are."""
    absent = [source.path for source in sources if not Path(source.path).exists()]
    if not absent:
        return ""
    return f"not on this machine: {', '.join(absent)}; lengths are the limits of the settings, steps unknown"
