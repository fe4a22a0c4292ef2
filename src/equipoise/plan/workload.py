"""What a stage has to go through: its largest forward pass, its steps, its tokens, and what is trained on.

Read from the data where they lie on this machine; else from the limits in the settings. Of several processes each
has its share of every batch, and the largest pass of any is meant. Left out: memory.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from transformers import PreTrainedTokenizerBase

from equipoise.data.load import load_demonstrations, load_prompts
from equipoise.data.source import DataSource
from equipoise.data.summary import Lengths, lengths_of
from equipoise.records import Record
from equipoise.rollout.respond import fitting_prompts
from equipoise.tokens.batches import Shape
from equipoise.tokens.collate import Example
from equipoise.tokens.render import EXAMPLES, masked_examples, render_with_mask
from equipoise.tokens.template import load_tokenizer, many_prompt_ids
from equipoise.train.config import CostConfig, RewardConfig, ScoreModelConfig, SftConfig, TrainConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_lag import ptx_batches
from equipoise.train.score_data import Survey, fitting_groups, group_micro_batches, split_groups, take_survey
from equipoise.train.score_model import COST, REWARD
from equipoise.train.setup import batch_at, groups_per_batch, length_sorted_batches, micro_batches
from equipoise.train.sft import split_examples

T = TypeVar("T")


class Pass(NamedTuple):
    """One forward pass."""

    rows: int
    length: int  # tokens of a row, padding included
    targets: int  # tokens whose logits are computed; 0 for a score
    prompts: int = 0  # different ones, their answers side by side; 0: not known
    together: int = 0  # tokens of a row that has a prompt once and all its answers

    @property
    def cells(self) -> int:
        """What its memory grows with."""
        return self.rows * self.length


NO_PASS = Pass(0, 0, 0)


def largest_of(parts: Iterable[Pass]) -> Pass:
    """The one that takes most memory."""
    return max(parts, key=lambda one: one.cells)


@dataclass(frozen=True)
class Work:
    """What a stage goes through, in one process."""

    parts: frozenset[Pass]  # of all steps; for ppo-lag: of responses
    passes: int  # in a step
    steps: int | None  # optimizer steps of the stage; None: the data are not there
    prompts: int | None
    tokens: dict[str, Lengths] = field(default_factory=dict)
    tokens_per_epoch: int | None = None
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def largest(self) -> Pass:
        """The largest pass, each sequence by itself."""
        return largest_of(self.parts)


@dataclass(frozen=True)
class PpoWork(Work):
    """What `ppo-lag` goes through."""

    rows: int = 0  # responses that are sampled at a time
    prompt: int = 0  # tokens of the longest prompt
    ptx: Pass = NO_PASS  # the largest of the PTX term
    ptx_passes: int = 0


def sft_work(config: SftConfig, processes: int = 1) -> Work:
    """The work of `sft`.

    Args:
        config: The stage's settings.
        processes: How many share every batch.

    Raises:
        DataError, ModelError: Data or tokenizer are there and cannot be used.
    """
    if missing := _missing(config.demonstrations):
        limit, passes = _at_most(config, -(-config.batch_size // processes), config.max_length)
        return Work(frozenset({limit}), passes, None, None, notes=(missing,))
    tokenizer = load_tokenizer(config.model, template=config.template)
    records = [d for source in config.demonstrations for d in load_demonstrations(source)]
    examples, _ = split_examples(records, tokenizer, config)
    lengths = tuple(len(e.ids) for e in examples)
    batches, steps = _batches(lengths, config.batch_size, config, config.epochs, processes)
    parts, passes = _parts_of_sft([[examples[i] for i in batch] for batch in batches], config)
    return Work(
        parts=parts,
        passes=passes,
        steps=steps,
        prompts=len(examples),
        tokens={
            "prompts": lengths_of([e.target_from for e in examples]),
            "responses": lengths_of([len(e.ids) - e.target_from for e in examples]),
        },
        tokens_per_epoch=sum(lengths),
        examples=tuple(_shown(examples, tokenizer)),
    )


def score_model_work(config: ScoreModelConfig, processes: int = 1) -> Work:
    """The work of `reward` or `cost`; arguments and errors as in `sft_work`."""
    if missing := _missing([*config.pairs, *(config.labels if isinstance(config, CostConfig) else ())]):
        limit, passes = _at_most(config, -(-config.batch_size // processes), config.max_length, rows=2)
        return Work(frozenset({limit}), passes, None, None, notes=(missing,))
    kind = REWARD if isinstance(config, RewardConfig) else COST
    tokenizer = load_tokenizer(config.model, template=config.template)
    groups, _ = split_groups(fitting_groups(kind.load(config), tokenizer, config), config)
    survey = take_survey(tokenizer, groups, config.max_length)
    keys = tuple(group.length for group in groups)
    size = groups_per_batch([g.terms for g in groups], config.batch_size)
    batches, steps = _batches(keys, size, config, config.epochs, processes)

    def cut(batch: Sequence[int]) -> list[Pass]:
        of_batch = group_micro_batches([groups[i] for i in batch], survey, config, config.micro_batch)
        return [_of_groups([group.prompt.id for group in part], survey) for part in of_batch]

    parts, passes = _distinct(map(cut, batches))
    records: list[Record] = [r for group in groups for r in (group.pairs or group.labels)[:1]]
    return Work(
        parts=parts,
        passes=passes,
        steps=steps,
        prompts=len(groups),
        tokens={"prompt and response": lengths_of(survey.lengths)},
        tokens_per_epoch=sum(survey.lengths),
        examples=tuple(masked_examples(records, tokenizer, config.max_length))[:EXAMPLES],
    )


def ppo_lag_work(config: PpoLagConfig, processes: int = 1) -> PpoWork:
    """The work of `ppo-lag`; every response is taken to reach the limit. Arguments and errors as in `sft_work`."""
    rows = -(-config.batch_size // processes) * config.samples_per_prompt
    limit = config.sampling.max_new_tokens
    ptx_size = (config.ptx_batch_size or config.batch_size) if config.ptx else 0
    if missing := _missing([*config.prompts, *config.ptx]):
        answers, passes = _at_most(config, rows, config.max_prompt_length + limit)
        ptx, ptx_passes = _at_most(config, -(-ptx_size // processes), config.max_length)
        answers = answers._replace(targets=answers.rows * limit)
        return PpoWork(
            frozenset({answers}), passes, config.steps, None, notes=(missing,),
            rows=rows, prompt=config.max_prompt_length, ptx=ptx, ptx_passes=ptx_passes,
        )  # fmt: skip
    tokenizer = load_tokenizer(config.actor)
    found = [prompt for source in config.prompts for prompt in load_prompts(source)]
    prompts = fitting_prompts(tokenizer, found, config.max_prompt_length, config.too_long)
    ids = many_prompt_ids(tokenizer, [prompt.messages for prompt in prompts])
    lengths = [len(one) for one in ids]
    steps = config.steps or math.ceil(config.epochs * len(prompts) / config.batch_size)
    drawn = [batch_at(len(ids), config.batch_size, config.seed, step) for step in range(steps)]
    parts, passes = _parts_of_answers(_shares(drawn, processes), lengths, config)
    shown = [render_with_mask(tokenizer, Example(one, len(one), cut=False)) for one in ids[:EXAMPLES]]
    ptx, ptx_passes = NO_PASS, 0
    if config.ptx:
        batches = ptx_batches(config, tokenizer, steps)
        of_ptx, ptx_passes = _parts_of_sft(_shares(batches, processes), config)
        ptx = largest_of(of_ptx)
        shown += _shown([example for batch in batches for example in batch], tokenizer)
    return PpoWork(
        parts=parts, passes=passes, steps=steps, prompts=len(prompts), tokens={"prompts": lengths_of(lengths)},
        tokens_per_epoch=config.samples_per_prompt * (sum(lengths) + limit * len(lengths)), examples=tuple(shown),
        notes=(f"every response is taken to reach the limit of {limit} tokens",),
        rows=rows, prompt=max(lengths), ptx=ptx, ptx_passes=ptx_passes,
    )  # fmt: skip


def _shown(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    some = examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES]
    return [render_with_mask(tokenizer, example) for example in some]


def _batches(
    lengths: tuple[int, ...], size: int, config: TrainConfig, epochs: float, processes: int
) -> tuple[list[Sequence[int]], int]:
    """What falls to any process in any step of all epochs, and the steps."""
    passes = range(math.ceil(epochs))
    batches = [b for k in passes for b in length_sorted_batches(lengths, size, config.seed, k)]
    whole = [b for b in batches if len(b) >= processes]
    return _shares(whole, processes), math.ceil(epochs * len(whole) / len(passes))


def _shares(batches: Iterable[Sequence[T]], processes: int) -> list[Sequence[T]]:
    return [batch[rank::processes] for batch in batches for rank in range(min(processes, len(batch)))]


def _parts_of_sft(batches: Sequence[Sequence[Example]], config: TrainConfig) -> tuple[frozenset[Pass], int]:
    def measured(part: Sequence[Example]) -> Pass:
        targets = sum(len(e.ids) - e.target_from for e in part)
        return Pass(len(part), max(len(e.ids) for e in part), targets)

    limits = (config.micro_batch, config.micro_tokens)
    return _distinct([measured(p) for p in micro_batches(b, [e.shape for e in b], *limits)] for b in batches)


def _parts_of_answers(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], config: PpoLagConfig
) -> tuple[frozenset[Pass], int]:
    """As `by_length` would cut responses that all reach the limit."""
    limit = config.sampling.max_new_tokens

    def cut(batch: Sequence[int]) -> list[Pass]:
        answers = [number for number in batch for _ in range(config.samples_per_prompt)]
        shapes = [Shape(1, lengths[number] + limit, number) for number in answers]
        return [measured(part) for part in micro_batches(answers, shapes, config.micro_batch, config.micro_tokens)]

    def measured(part: Sequence[int]) -> Pass:
        together = max(lengths[number] + several * limit for number, several in Counter(part).items())
        longest = max(lengths[number] for number in part) + limit
        return Pass(len(part), longest, len(part) * limit, len(set(part)), together)

    return _distinct(map(cut, batches))


def _of_groups(prompts: Sequence[str], survey: Survey) -> Pass:
    """All responses to some prompts as one forward pass, padded."""
    shapes = [survey.shapes[one] for one in prompts]
    rows, length = sum(shape.rows for shape in shapes), max(shape.length for shape in shapes)
    return Pass(rows, length, 0, len(prompts), max(survey.together[one] for one in prompts))


def _distinct(steps: Iterable[Sequence[Pass]]) -> tuple[frozenset[Pass], int]:
    """The passes of all steps, and the most of one step."""
    found = list(steps)
    return frozenset(one for step in found for one in step), max(map(len, found))


def _at_most(config: TrainConfig, items: int, length: int, rows: int = 1) -> tuple[Pass, int]:
    """The pass of so many items when nothing but the limits is known, and how many there are."""
    together = config.micro_batch or items
    if config.micro_tokens is not None:
        together = max(1, config.micro_tokens // (rows * length))
    together = min(together, items)
    size = together * rows
    return Pass(size, length, size * (length - 1)), -(-items // together) if items else 0


def _missing(sources: Sequence[DataSource]) -> str:
    """Which data are not on this machine, in words; empty where all are."""
    absent = [source.path for source in sources if not Path(source.path).exists()]
    if not absent:
        return ""
    return f"not on this machine: {', '.join(absent)}; lengths are the limits of the settings, steps unknown"
