"""Prompts → responses of a policy, scored by a reward and a cost model, and chosen by these scores, if asked for.

Prompts of similar length are answered together, and the records go back into the order of the prompts. Left out:
decoding (`native`), judging (`evaluate`).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.data.dedupe import unique
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_prompts
from equipoise.data.source import input_paths
from equipoise.errors import DataError
from equipoise.models.backbone import check_fit, load_causal_lm, load_shape
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Prompt, Response, ScoredResponse
from equipoise.rollout.best_of import choose, counts, numbered, open_chooser
from equipoise.rollout.config import (
    GuardScore,
    HfSettings,
    ModelScore,
    NativeSettings,
    RespondConfig,
    SamplerConfig,
    Sampling,
    ScoreSourceConfig,
)
from equipoise.rollout.opening import check_sampler, open_sampler
from equipoise.rollout.sampler import Engine, Sampler
from equipoise.rollout.score import ModelSource, ScoreSource, open_score_source
from equipoise.runlog import RunLog
from equipoise.tokens.batches import Rollout
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.folder import model_folder
from equipoise.tokens.template import decode, load_tokenizer, many_prompt_ids

RESPONSES = "responses.jsonl"
BATCHES = 8
"""Batches that are answered in one step: the rows of a later one take the places of those that have ended."""


@dataclass(frozen=True)
class Policy:
    """A policy that can be asked: the model, what draws from it, its tokenizer, and its name in records."""

    model: PreTrainedModel
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    name: str


def respond(config: RespondConfig) -> Path:
    """Let a policy answer prompts.

    Args:
        config: Settings; `out` becomes a directory of kind "responses" with responses.jsonl.

    Returns:
        `config.out`.

    Raises:
        DataError: A source is unusable, or prompts are too long and `too_long` is "refuse": names the first five.
        ModelError: The policy or a scorer cannot be loaded, or the lengths do not fit the policy's context.
        ConfigError, EndpointError: A score source is not there.
    """
    build = artefact.start(config.out, "responses", config, _inputs(config))
    if build.is_finished:
        return config.out
    found = unique([p for source in config.prompts for p in load_prompts(source)], lambda prompt: prompt.id)
    tokenizer = load_tokenizer(config.policy)
    chosen = _limited(found, config)
    prompts = fitting_prompts(tokenizer, chosen, config.max_prompt_length, config.too_long)
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    length = config.max_prompt_length + config.sampling.max_new_tokens
    policy = open_policy(config.policy, device, dtype, config.name, config.batch_size, config.sampler, length)
    check_fit(policy.model, policy.tokenizer, length)
    samples = config.samples_per_prompt * (config.best_of.n if config.best_of else 1)
    answers: list[list[Response]] = [[] for _ in prompts]
    generator = torch.Generator(device).manual_seed(config.seed)
    parts = list(by_length(policy.tokenizer, prompts, max(1, BATCHES * config.batch_size // samples)))
    with RunLog(config.out, total_steps=len(parts)) as log:
        log.cut_back(0)
        for step, rows in enumerate(parts, start=1):
            drawn = answer(policy, [prompts[i] for i in rows], config.sampling, generator, samples)
            for k, i in enumerate(rows):
                answers[i] = drawn[k * samples : (k + 1) * samples]
            log.log(step, {"unfinished_share": sum(not r.finished for r in drawn) / len(drawn)})
            log.sample(step, [{"prompt": drawn[0].prompt.text, "response": drawn[0].text}])
    responses = [response for several in answers for response in several]
    if config.best_of is None:
        records, choice = attach_scores(responses, config.reward, config.cost, device), {}
    else:
        given = choose(open_chooser(config.best_of, config.reward, config.cost, device), responses)
        records, choice = numbered(given, config.samples_per_prompt), counts(given, len(responses))
    write_records(config.out / RESPONSES, records)
    facts = {
        "responses": len(records),
        "prompts": len(prompts),
        "dropped_prompts": len(chosen) - len(prompts),
        "unfinished": sum(not response.finished for response in records),
        **choice,
    }
    artefact.finish(build, facts)
    return config.out


def _limited(prompts: Sequence[Prompt], config: RespondConfig) -> Sequence[Prompt]:
    count = min(config.limit or len(prompts), len(prompts))
    if config.keep == "first":
        return prompts[:count]
    return [prompts[i * len(prompts) // count] for i in range(count)]


def open_policy(
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "",
    batch_size: int = 64,
    settings: SamplerConfig | None = None,
    length: int = 0,
) -> Policy:
    """The policy in a directory, ready to be asked.

    Args:
        path: Any directory that AutoModelForCausalLM loads.
        device: Where it goes.
        dtype: Precision of its weights.
        name: Its name in records; empty: the directory's.
        batch_size: The most responses that are written at a time.
        settings: What draws responses; None: `native`. An engine has the weights, the model here then has none.
        length: Tokens of the longest prompt with its response, for engines.

    Raises:
        ModelError: The directory holds no policy.
        ConfigError, EndpointError: The engine is not there, or does not take the policy.
    """
    settings = settings or NativeSettings()
    check_sampler(settings, length)
    tokenizer = load_tokenizer(path)
    is_here = isinstance(settings, NativeSettings | HfSettings)
    model = load_causal_lm(path, dtype=dtype, device=device) if is_here else load_shape(path, dtype=dtype)
    sampler = open_sampler(settings, model, tokenizer, length, batch_size)
    if isinstance(sampler, Engine):
        sampler.load(model_folder(path).resolve())
    return Policy(model, sampler, tokenizer, name or path.name)


def answer(
    policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, generator: torch.Generator, samples: int = 1
) -> list[Response]:
    """Some responses to each prompt, those of a prompt together and numbered.

    Raises:
        ModelError: A prompt and its response may not fit into the policy's context.
    """
    conversations = [prompt.messages for prompt in prompts]
    batch = collate_prompts(policy.tokenizer, conversations, sys.maxsize).batch  # the sampler knows the limit
    rollout = policy.sampler.sample(batch.to(generator.device), sampling, generator, samples)
    return to_responses(prompts, rollout, policy.tokenizer, policy.name, samples)


def to_responses(
    prompts: Sequence[Prompt],
    rollout: Rollout,
    tokenizer: PreTrainedTokenizerBase,
    name: str = "",
    samples: int = 1,
) -> list[Response]:
    """The text of a rollout: what score sources read, whatever their own tokenizer.

    Args:
        prompts: B prompts.
        rollout: Their B·G rows, those of a prompt together.
        tokenizer: The policy's.
        name: The policy's name in the records.
        samples: G.
    """
    tokens = rollout.input_ids[:, -rollout.response_mask.shape[1] :].tolist()
    lengths = rollout.response_mask.sum(dim=1).tolist()
    asked = ((prompt, sample) for prompt in prompts for sample in range(samples))
    rows = zip(asked, tokens, lengths, rollout.finished.tolist(), strict=True)
    return [
        Response(
            prompt=prompt, text=decode(tokenizer, ids[:length]), policy=name, sample=sample, finished=finished
        )
        for (prompt, sample), ids, length, finished in rows
    ]


def attach_scores(
    responses: Sequence[Response],
    reward: ScoreSourceConfig | None,
    cost: ScoreSourceConfig | None,
    device: torch.device,
) -> list[Response]:
    """The responses as they are, or as `ScoredResponse` where a source is given.

    Raises:
        EquipoiseError: A source cannot be opened or gives something else than one finite number per response.
    """
    if reward is not None:
        responses = with_rewards(responses, open_score_source(reward, device=device).score(responses))
    return list(responses if cost is None else attach_costs(responses, open_score_source(cost, device=device)))


def attach_costs(responses: Sequence[Response], source: ScoreSource) -> list[ScoredResponse]:
    """The responses with their cost, and with those by category where the source is a cost model that has them."""
    if isinstance(source, ModelSource) and source.categories:
        costs, rows = source.score_with_categories(responses)
        return with_costs(responses, costs, [dict(zip(source.categories, row, strict=True)) for row in rows])
    return with_costs(responses, source.score(responses))


def with_rewards(responses: Sequence[Response], rewards: Sequence[float]) -> list[ScoredResponse]:
    """The responses with these rewards."""
    return [
        ScoredResponse(**{**dict(one), "reward": reward}) for one, reward in zip(responses, rewards, strict=True)
    ]


def with_costs(
    responses: Sequence[Response], costs: Sequence[float], by_category: Sequence[dict[str, float]] | None = None
) -> list[ScoredResponse]:
    """The responses with these costs, and no others: those by category that another source gave are gone."""
    rows: Sequence[dict[str, float] | None] = by_category or [None] * len(costs)
    return [
        ScoredResponse(**{**dict(one), "cost": cost, "category_costs": further})
        for one, cost, further in zip(responses, costs, rows, strict=True)
    ]


def fitting_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], limit: int, too_long: Literal["refuse", "drop"]
) -> list[Prompt]:
    """The prompts of at most `limit` tokens.

    Raises:
        DataError: Some are longer, and `too_long` is "refuse"; or all are.
    """
    lengths = [len(ids) for ids in many_prompt_ids(tokenizer, [prompt.messages for prompt in prompts])]
    pairs = list(zip(prompts, lengths, strict=True))
    fitting = [prompt for prompt, length in pairs if length <= limit]
    longer = [f"{p.id} ({n} tokens): {p.text[:50]!r}" for p, n in pairs if n > limit]
    if longer and (too_long == "refuse" or not fitting):
        raise DataError(
            f"{len(longer)} of {len(prompts)} prompts are longer than {limit} tokens.",
            where="; ".join(longer[:5]),
            fix="Raise the maximum length, or leave them out with too_long = 'drop'.",
        )
    return fitting


def by_length(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], batch_size: int
) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first: what does not fit into memory fails at once."""
    lengths = [len(ids) for ids in many_prompt_ids(tokenizer, [prompt.messages for prompt in prompts])]
    order = sorted(range(len(prompts)), key=lambda i: lengths[i], reverse=True)
    yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))


def _inputs(config: RespondConfig) -> dict[str, Path]:
    scorers = {
        role: source.path
        for role, source in (("reward", config.reward), ("cost", config.cost))
        if isinstance(source, ModelScore | GuardScore)
    }
    return {"policy": config.policy, **scorers, **input_paths(config.prompts, "prompts")}
