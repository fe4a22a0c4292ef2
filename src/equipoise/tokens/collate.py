"""Text records → batches of tensors: joining, cutting and padding.

What is too long is cut in one place, here, and every cut is counted:
- a response that does not fit loses its tail, never its end token when it is to be scored;
- a prompt that does not fit is refused, or loses its oldest tokens (its first special token stays), as stated.

Left out: what the tokens of a text are (`template`), and batches that come from sampling (rollout).
"""

from collections.abc import Sequence
from itertools import chain
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from equipoise.errors import DataError
from equipoise.records import Demonstration, Message, PreferencePair, Prompt, SafetyLabel
from equipoise.tokens.batches import CostBatch, PromptBatch, RewardBatch, ScoreBatch, SftBatch, Shape
from equipoise.tokens.template import Ids, end_id, many_prompt_ids, many_response_ids

BatchT = TypeVar("BatchT")
TooLong = Literal["refuse", "cut_left"]
Conversation = Sequence[Message]
Turn = tuple[Conversation, int]  # a conversation, and which of its messages
CategorySigns = tuple[float, ...]


class Cut(NamedTuple):
    """How many of a batch did not fit."""

    prompts: int
    responses: int


class Collated(NamedTuple, Generic[BatchT]):
    """A batch and what was cut to make it."""

    batch: BatchT
    cut: Cut


class Example(NamedTuple):
    """One assistant turn to learn, after everything said before it."""

    ids: Ids
    target_from: int  # the first position of the assistant's tokens
    cut: bool  # True: the end of the turn did not fit, so it is no target

    @property
    def shape(self) -> Shape:
        """Its part of a batch."""
        return Shape(rows=1, length=len(self.ids), family=hash(tuple(self.ids[: self.target_from])))


def sft_examples(
    tokenizer: PreTrainedTokenizerBase,
    demonstration: Demonstration,
    max_length: int,
    *,
    too_long: TooLong = "cut_left",
) -> list[Example]:
    """`many_sft_examples` of one demonstration."""
    return many_sft_examples(tokenizer, [demonstration], max_length, too_long=too_long)


def many_sft_examples(
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    max_length: int,
    *,
    too_long: TooLong = "cut_left",
) -> list[Example]:
    """`turn_examples` of every assistant turn that answers a user, in order."""
    return turn_examples(tokenizer, answered_turns(demonstrations), max_length, too_long=too_long)


def answered_turns(demonstrations: Sequence[Demonstration]) -> list[Turn]:
    """Every assistant turn that answers a user, in order."""
    return [
        (d.messages, i)
        for d in demonstrations
        for i in range(1, len(d.messages))
        if (d.messages[i - 1].role, d.messages[i].role) == ("user", "assistant")
    ]


def turn_examples(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], max_length: int, *, too_long: TooLong = "cut_left"
) -> list[Example]:
    """Assistant turns as tokens.

    Args:
        tokenizer: The policy's tokenizer.
        turns: Which ones.
        max_length: Tokens, prompt and response together. A turn longer than what its prompt leaves is cut at
            the right and its end is no target, so the model does not learn to stop there.
        too_long: What to do with a prompt that leaves no room for an answer.

    Raises:
        DataError: A prompt does not fit and `too_long` is "refuse".
    """
    prompts = many_prompt_ids(tokenizer, [messages[:i] for messages, i in turns])
    responses = many_response_ids(tokenizer, [messages[i].content for messages, i in turns])
    end, examples = end_id(tokenizer), []
    for whole, response in zip(prompts, responses, strict=True):
        target = [*response, end]
        prompt = _fitting_prompt(tokenizer, whole, max_length - 1, too_long)
        ids = (prompt + target)[:max_length]
        examples.append(Example(ids, len(prompt), len(ids) < len(prompt) + len(target)))
    return examples


def collate_sft(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> SftBatch:
    """Examples as one batch, padded on the right: (B, L)."""
    input_ids, mask = _padded(tokenizer, [example.ids for example in examples])
    first = torch.tensor([example.target_from for example in examples])
    return SftBatch(input_ids, mask, mask & (torch.arange(mask.shape[1]) >= first[:, None]))


def collate_scores(
    tokenizer: PreTrainedTokenizerBase,
    answered: Sequence[tuple[Conversation, str]],
    max_length: int,
    *,
    too_long: TooLong = "refuse",
) -> Collated[ScoreBatch]:
    """Prompts with their responses, ready for a score head: every row ends with the end token.

    Args:
        tokenizer: The scorer's tokenizer, which need not be the policy's.
        answered: (conversation up to the user's turn, response) pairs.
        max_length: Tokens, all together. A response that does not fit is cut and still gets its end token.
        too_long: What to do with a prompt that leaves no room for one response token and the end.

    Raises:
        DataError: A prompt does not fit and `too_long` is "refuse".
    """
    prompts = many_prompt_ids(tokenizer, [conversation for conversation, _ in answered])
    responses = many_response_ids(tokenizer, [text for _, text in answered])
    end, joined, lengths, cut_prompts, cut_responses = end_id(tokenizer), [], [], 0, 0
    for whole, response in zip(prompts, responses, strict=True):
        prompt = _fitting_prompt(tokenizer, whole, max_length - 1 - min(1, len(response)), too_long)
        room = max_length - len(prompt) - 1
        cut_prompts += len(prompt) < len(whole)
        cut_responses += len(response) > room
        joined.append([*prompt, *response[:room], end])
        lengths.append(len(prompt))
    batch = ScoreBatch(*_padded(tokenizer, joined), torch.tensor(lengths))
    return Collated(batch, Cut(cut_prompts, cut_responses))


def collate_rewards(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    max_length: int,
    *,
    too_long: TooLong = "refuse",
) -> Collated[RewardBatch]:
    """Pairs for the reward model; a response that stands in several pairs is computed once.

    Raises:
        DataError: A pair has no helpfulness label, or as in `collate_scores`.
    """
    index: dict[tuple[str, str], int] = {}
    answered: list[tuple[Conversation, str]] = []
    sides: list[tuple[int, int]] = []
    for pair in pairs:
        if pair.more_helpful is None:
            raise _unlabelled(pair, "more_helpful")
        for text in pair.responses:
            if index.setdefault((pair.prompt.id, text), len(answered)) == len(answered):
                answered.append((pair.prompt.messages, text))
        first, second = (index[pair.prompt.id, text] for text in pair.responses)
        sides.append((first, second) if pair.more_helpful == 0 else (second, first))
    responses, cut = collate_scores(tokenizer, answered, max_length, too_long=too_long)
    return Collated(RewardBatch(responses, *_indices(sides)), cut)


def collate_costs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    labels: Sequence[SafetyLabel],
    max_length: int,
    *,
    too_long: TooLong = "refuse",
    categories: Sequence[str] = (),
) -> Collated[CostBatch]:
    """Pairs and single safety labels for the cost model; `winners` are the more harmful.

    A response that stands in several pairs with the same safety label is computed once; with `categories`, with
    the same of these, too.

    Raises:
        DataError: A pair lacks its harmlessness label or a safety label, or as in `collate_scores`.
    """
    index: dict[tuple[str, str, bool, CategorySigns | None], int] = {}
    answered: list[tuple[Conversation, str]] = []

    def place(prompt: Prompt, text: str, is_safe: bool, named: Sequence[str]) -> int:
        signs = category_signs(is_safe, named, categories) if categories else ()
        row = index.setdefault((prompt.id, text, is_safe, signs), len(answered))
        if row == len(answered):
            answered.append((prompt.messages, text))
        return row

    sides: list[tuple[int, int]] = []
    for pair in pairs:
        rows = []
        for text, is_safe, named in zip(pair.responses, pair.is_safe, pair.categories, strict=True):
            if is_safe is None:
                raise _unlabelled(pair, "is_safe")
            rows.append(place(pair.prompt, text, is_safe, named))
        if pair.safer is None:
            raise _unlabelled(pair, "safer")
        sides.append((rows[1 - pair.safer], rows[pair.safer]))
    singles = [place(label.prompt, label.response, label.is_safe, label.categories) for label in labels]
    responses, cut = collate_scores(tokenizer, answered, max_length, too_long=too_long)
    signs = [found for *_, found in index]
    batch = CostBatch(
        responses,
        *_indices(sides),
        signs=torch.tensor([-1.0 if is_safe else 1.0 for _, _, is_safe, _ in index]),
        singles=torch.tensor(singles, dtype=torch.int64),
        category_signs=torch.tensor([one or (0.0,) * len(categories) for one in signs]),
        category_known=torch.tensor([one is not None for one in signs]),
    )
    return Collated(batch, cut)


def category_signs(is_safe: bool, named: Sequence[str], categories: Sequence[str]) -> CategorySigns | None:
    """In which ways a labelled response is harmful: +1 or −1 per category.

    None where the label does not say: an unsafe response without a category, or a safe one with some.
    """
    if is_safe == bool(named):
        return None
    return tuple(1.0 if category in named else -1.0 for category in categories)


def collate_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Conversation],
    max_prompt_length: int,
    *,
    too_long: TooLong = "refuse",
) -> Collated[PromptBatch]:
    """Prompts that await an answer, padded on the left: (B, P).

    Args:
        tokenizer: The policy's tokenizer.
        prompts: Conversations that end with a user's turn.
        max_prompt_length: Tokens. The response's length is not counted here.
        too_long: What to do with a longer prompt.

    Raises:
        DataError: A prompt does not fit and `too_long` is "refuse".
    """
    whole = many_prompt_ids(tokenizer, prompts)
    fitting = [_fitting_prompt(tokenizer, ids, max_prompt_length, too_long) for ids in whole]
    cut = sum(len(ids) < len(all_ids) for ids, all_ids in zip(fitting, whole, strict=True))
    return Collated(pad_prompts(tokenizer, fitting), Cut(cut, 0))


def pad_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids]) -> PromptBatch:
    """Prompts that are tokens already, padded on the left: (B, P)."""
    return PromptBatch(*_padded(tokenizer, prompts, left=True))


def _fitting_prompt(tokenizer: PreTrainedTokenizerBase, ids: Ids, room: int, too_long: TooLong) -> Ids:
    """The prompt if it fits in `room` tokens, else its newest tokens; a leading BOS or CLS stays in front."""
    if len(ids) <= room:
        return ids
    leads = ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id)
    if too_long == "cut_left" and room > leads:
        return ids[:leads] + ids[len(ids) - room + leads :]
    raise DataError(
        f"A prompt of {len(ids)} tokens does not fit: there is room for {max(room, 0)}.",
        where=f"{tokenizer.decode(ids)!r:.80}…",
        fix="Raise the maximum length (up to the model's context), cut prompts from the left, or drop this one.",
    )


def _padded(
    tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Ids], *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """The sequences as (B, L) ids and the mask of what is real, known from their lengths alone."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    width = int(lengths.max())
    positions = torch.arange(width)
    mask = positions >= (width - lengths)[:, None] if left else positions < lengths[:, None]
    padded = torch.full(mask.shape, int(tokenizer.pad_token_id or 0))
    padded[mask] = torch.tensor(list(chain.from_iterable(sequences)))
    return padded, mask


def _indices(sides: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    both = torch.tensor(sides, dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _unlabelled(pair: PreferencePair, field: str) -> DataError:
    return DataError(
        f"A preference pair has no {field}.",
        where=f"{pair.source or 'prompt'} {pair.prompt.id}: {pair.prompt.text[:60]!r}",
        fix="Train on pairs that carry the label; `equipoise data check` counts them.",
    )
