"""Preference pairs as direct methods learn from them: ranked, tokenized, grouped by prompt, in batches.

Every pair that cannot be used is counted by its reason. All pairs of a prompt stay in one batch, so each response
is computed once however many pairs it stands in. A response is never cut: the log-probability of its beginning is
not its own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from equipoise.data.load import load_labelled_or_not
from equipoise.data.split import Split, split_by_id
from equipoise.errors import DataError
from equipoise.records import Prompt
from equipoise.tokens.batches import SftBatch, Shape, on_device
from equipoise.tokens.collate import Example, collate_sft
from equipoise.tokens.template import end_id, many_prompt_ids, many_response_ids
from equipoise.train.direct_config import DirectConfig
from equipoise.train.direct_methods import Ranked, Reason, rank


class Pair(NamedTuple):
    """A winner and a loser among the responses of their prompt."""

    winner: int
    loser: int
    gap: float  # what the method knows of the pair besides: see `choose_loss`


class Group(NamedTuple):
    """The distinct responses to one prompt and the pairs among them."""

    prompt: Prompt
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]


class Tokenized(NamedTuple):
    """A group, its responses as tokens."""

    group: Group
    answers: tuple[Example, ...]

    @property
    def shape(self) -> Shape:
        """Its part of a batch."""
        return Shape(len(self.answers), max(len(answer.ids) for answer in self.answers))


class Item(NamedTuple):
    """What the loop learns from: a group with what the reference says of its responses."""

    tokenized: Tokenized
    ref_log_probs: tuple[float, ...]  # nats, of whole responses

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs among the responses."""
        return self.tokenized.group.pairs


class Chosen(NamedTuple):
    """The pairs that a method can use, and how many it cannot."""

    groups: list[Group]
    left_out: Counter[Reason]
    swapped: int  # pairs whose winner is not the labelled one, because that is unsafe


@dataclass(frozen=True)
class DirectBatch:
    """Responses to some prompts, and the pairs among them."""

    answers: SftBatch  # N responses, each after its prompt
    ref_log_probs: Tensor  # (N,) float32, nats
    winners: Tensor  # (M,) int64 into N
    losers: Tensor  # (M,) int64 into N
    gaps: Tensor  # (M,) float32

    def to(self, device: torch.device | str) -> "DirectBatch":
        """The same batch on `device`."""
        return on_device(self, device)


def choose_pairs(config: DirectConfig) -> Chosen:
    """The pairs of all sources as the method ranks them, grouped by prompt in order of first appearance.

    Raises:
        DataError: A source is unusable, or no pair is left: says how many were left out and why.
    """
    left_out: Counter[Reason] = Counter()
    found: dict[str, tuple[Prompt, dict[str, int], list[Pair]]] = {}
    swapped = total = 0
    for source in config.pairs:
        for pair in load_labelled_or_not(source):
            total += 1
            ranked = rank(pair, config.method, source.contradictions)
            if not isinstance(ranked, Ranked):
                left_out[ranked] += 1
                continue
            _, texts, pairs = found.setdefault(pair.prompt.id, (pair.prompt, {}, []))
            sides = [texts.setdefault(text, len(texts)) for text in pair.responses]
            pairs.append(Pair(sides[ranked.winner], sides[1 - ranked.winner], ranked.unsafe_gap))
            swapped += config.method.type == "safe_dpo" and ranked.winner != pair.more_helpful
    if not found:
        raise _none_left(config, total, left_out, "Look at the files with `equipoise data check`.")
    groups = [Group(prompt, tuple(texts), tuple(pairs)) for prompt, texts, pairs in found.values()]
    return Chosen(groups, left_out, swapped)


def tokenize(chosen: Chosen, tokenizer: PreTrainedTokenizerBase, config: DirectConfig) -> list[Tokenized]:
    """The groups as tokens. Pairs that do not fit are added to `chosen.left_out`.

    Raises:
        DataError: Not one pair fits.
    """
    prompts = many_prompt_ids(tokenizer, [group.prompt.messages for group in chosen.groups])
    texts = many_response_ids(tokenizer, [text for group in chosen.groups for text in group.texts])
    end, done, found = end_id(tokenizer), 0, []
    for group, prompt in zip(chosen.groups, prompts, strict=True):
        answers = [[*prompt, *ids, end] for ids in texts[done : done + len(group.texts)]]
        done += len(group.texts)
        fits = [len(ids) <= config.max_length for ids in answers]
        pairs = [pair for pair in group.pairs if fits[pair.winner] and fits[pair.loser]]
        chosen.left_out["too_long"] += len(group.pairs) - len(pairs)
        if not pairs:
            continue
        used = sorted({side for pair in pairs for side in (pair.winner, pair.loser)})
        place = {side: number for number, side in enumerate(used)}
        moved = tuple(Pair(place[pair.winner], place[pair.loser], pair.gap) for pair in pairs)
        examples = tuple(Example(answers[side], len(prompt), cut=False) for side in used)
        found.append(Tokenized(Group(group.prompt, tuple(group.texts[side] for side in used), moved), examples))
    if not found:
        raise _none_left(config, chosen.left_out.total(), chosen.left_out, "Raise max_length.")
    return found


def split(groups: Sequence[Tokenized], config: DirectConfig) -> Split[Tokenized]:
    """Training and held-out prompts, by a hash of the prompt.

    Raises:
        DataError: All are held out.
    """
    halves = split_by_id(groups, lambda one: one.group.prompt.id, config.held_out, config.seed)
    if not halves.train:
        raise DataError(
            "No pair is left to train on.",
            where=", ".join(source.path for source in config.pairs),
            why=f"all {len(groups)} prompts were held out (held_out = {config.held_out})",
            fix="Lower held_out, or bring more pairs.",
        )
    return halves


def collate(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> DirectBatch:
    """Some groups as one batch, padded on the right."""
    answers = [answer for item in items for answer in item.tokenized.answers]
    winners, losers, gaps = [], [], []
    first = 0
    for item in items:
        winners += [first + pair.winner for pair in item.pairs]
        losers += [first + pair.loser for pair in item.pairs]
        gaps += [pair.gap for pair in item.pairs]
        first += len(item.tokenized.answers)
    return DirectBatch(
        answers=collate_sft(tokenizer, answers),
        ref_log_probs=torch.tensor([value for item in items for value in item.ref_log_probs]),
        winners=torch.tensor(winners),
        losers=torch.tensor(losers),
        gaps=torch.tensor(gaps),
    )


def _none_left(config: DirectConfig, total: int, left_out: Counter[Reason], fix: str) -> DataError:
    return DataError(
        f"No pair is of use to {config.method.type}.",
        where=", ".join(source.path for source in config.pairs),
        why=f"of {total} pairs left out: " + ", ".join(f"{reason} {n}" for reason, n in left_out.most_common()),
        fix=fix,
    )
