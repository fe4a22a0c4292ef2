"""The labels of reward and cost models by prompt: loaded, split, and what they need known before a model loads.

A prompt's labels stay together, so that each of its responses is computed once for all of them. Left out: tensors
(`tokens.collate`) and losses (`score_losses`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from equipoise.data.load import load_pairs, load_safety_labels
from equipoise.data.split import Split, split_by_id
from equipoise.errors import DataError
from equipoise.records import PreferencePair, Prompt, SafetyLabel
from equipoise.rollout.respond import fitting_prompts
from equipoise.tokens.batches import Shape
from equipoise.tokens.template import many_prompt_ids, many_response_ids
from equipoise.train.config import CostConfig, RewardConfig, ScoreModelConfig
from equipoise.train.setup import groups_per_batch, micro_batches


class Group(NamedTuple):
    """The labels of one prompt: they stay in one batch, so that a response is computed once for all its pairs."""

    pairs: list[PreferencePair]
    labels: list[SafetyLabel]  # of responses without a pair; cost only

    @property
    def terms(self) -> int:
        """Terms of the loss."""
        return len(self.pairs) + len(self.labels)

    @property
    def length(self) -> int:
        """Characters of the prompt and its longest response, to put groups of like length together."""
        return sum(len(m.content) for m in self.prompt.messages) + max(len(text) for text in self.texts)

    @property
    def texts(self) -> set[str]:
        """The distinct responses."""
        return {text for pair in self.pairs for text in pair.responses} | {label.response for label in self.labels}

    @property
    def prompt(self) -> Prompt:
        """What was asked."""
        return (self.pairs[0] if self.pairs else self.labels[0]).prompt


class Survey(NamedTuple):
    """What the data need, known before a model loads."""

    lengths: list[int]  # tokens of every conversation, once cut
    cut: int  # responses that lose their tail
    shapes: dict[str, Shape]  # prompt id → its distinct responses, each with the prompt
    together: dict[str, int]  # prompt id → tokens of the prompt, once, and of all its responses


def load_reward_groups(config: RewardConfig) -> list[Group]:
    """Pairs with a helpfulness label."""
    return by_prompt([pair for source in config.pairs for pair in load_pairs(source, need="helpfulness")], [])


def load_cost_groups(config: CostConfig) -> list[Group]:
    """Pairs with a harm preference and both safety labels, and single safety labels."""
    pairs = [pair for source in config.pairs for pair in load_pairs(source, need="safety")]
    return by_prompt(pairs, [label for source in config.labels for label in load_safety_labels(source)])


def by_prompt(pairs: Sequence[PreferencePair], labels: Sequence[SafetyLabel]) -> list[Group]:
    """All labels, grouped by prompt, in order of first appearance."""
    groups: dict[str, Group] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt.id, Group([], [])).pairs.append(pair)
    for label in labels:
        groups.setdefault(label.prompt.id, Group([], [])).labels.append(label)
    return list(groups.values())


def fitting_groups(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, config: ScoreModelConfig
) -> Sequence[Group]:
    """The groups whose prompt leaves room for one token of a response and the end of the turn."""
    prompts = fitting_prompts(tokenizer, [g.prompt for g in groups], config.max_length - 2, config.too_long)
    fits = {prompt.id for prompt in prompts}
    return [group for group in groups if group.prompt.id in fits]


def split_groups(groups: Sequence[Group], config: ScoreModelConfig) -> Split[Group]:
    """Training and held-out prompts."""
    split = split_by_id(groups, lambda group: group.prompt.id, config.held_out, config.seed)
    if not split.train:
        raise DataError(
            "No labelled prompt is left to train on.",
            where=", ".join(source.path for source in config.pairs),
            why=f"every label is missing, dropped by policy, or held out (held_out = {config.held_out})",
            fix="Look at the files with `equipoise data check`; lower held_out.",
        )
    return split


def group_micro_batches(
    groups: Sequence[Group], survey: Survey, config: ScoreModelConfig, terms: int | None
) -> list[Sequence[Group]]:
    """The groups that go through the network together: about `terms` terms each, or as `micro_tokens` says."""
    size = groups_per_batch([g.terms for g in groups], terms) if groups else None
    return micro_batches(groups, [survey.shapes[g.prompt.id] for g in groups], size, config.micro_tokens)


def take_survey(tokenizer: PreTrainedTokenizerBase, groups: Sequence[Group], max_length: int) -> Survey:
    """Tokenize everything once; every prompt leaves room for a response."""
    prompts = many_prompt_ids(tokenizer, [group.prompt.messages for group in groups])
    lengths: list[int] = []
    cut, shapes, together = 0, {}, {}
    for group, prompt in zip(groups, prompts, strict=True):
        room = max_length - len(prompt) - 1
        needed = [len(ids) for ids in many_response_ids(tokenizer, list(group.texts))]
        cut += sum(length > room for length in needed)
        whole = [len(prompt) + 1 + min(room, length) for length in needed]
        shapes[group.prompt.id] = Shape(len(whole), max(whole))
        together[group.prompt.id] = sum(whole) - (len(whole) - 1) * len(prompt)
        lengths += whole
    return Survey(lengths, cut, shapes, together)
