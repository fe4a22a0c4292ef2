"""Stage `score`: stored responses → the same with rewards and costs.

What `respond` does while it samples, for responses that are there already. Besides the sources of `rollout.score`
it knows one that no sampler asks: β·ln(π/π_ref) of a policy that was trained on preferences, the reward it learnt;
its negative is a cost, where it was trained to prefer the safer. PeCAN finds λ from these.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from equipoise import artefact
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_responses
from equipoise.data.source import input_paths
from equipoise.errors import ConfigError, DataError
from equipoise.models.backbone import check_fit, load_causal_lm
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Response, ScoredResponse
from equipoise.rollout.config import GuardScore, ModelScore, Precision
from equipoise.rollout.respond import RESPONSES, attach_costs, with_costs, with_rewards
from equipoise.rollout.score import open_score_source
from equipoise.rollout.stored_config import LogRatioScore, ScoreConfig
from equipoise.tokens.collate import Example
from equipoise.tokens.template import end_id, load_tokenizer, many_prompt_ids, many_response_ids, same_tokens
from equipoise.train.forward import sequence_log_probs


def score_stored(config: ScoreConfig) -> Path:
    """Write a directory of kind "responses": the stored ones in order, with what was asked for.

    Args:
        config: Settings.

    Returns:
        `config.out`.

    Raises:
        DataError: A source cannot be read, or a response does not fit where its log-probability is asked for.
        ModelError, ConfigError, EndpointError: A source of scores is not there.
        EquipoiseError: It gives something else than one finite number per response.
    """
    build = artefact.start(config.out, "responses", config, _inputs(config))
    if build.is_finished:
        return config.out
    responses = [response for source in config.responses for response in load_responses(source)]
    device = pick_device(config.device)
    match config.reward:
        case None:
            pass
        case LogRatioScore() as source:
            responses = with_rewards(responses, _log_ratios(source, responses, config.precision, device))
        case other:
            responses = with_rewards(responses, open_score_source(other, device=device).score(responses))
    match config.cost:
        case None:
            pass
        case LogRatioScore() as source:
            ratios = _log_ratios(source, responses, config.precision, device)
            responses = with_costs(responses, [-ratio for ratio in ratios])
        case other:
            responses = attach_costs(responses, open_score_source(other, device=device))
    write_records(config.out / RESPONSES, responses)
    facts = {"responses": len(responses), "without_reward": sum(r.reward is None for r in responses)}
    artefact.finish(build, facts | {"without_cost": sum(r.cost is None for r in responses)})
    return config.out


def _log_ratios(
    source: LogRatioScore, responses: Sequence[ScoredResponse], precision: Precision, device: torch.device
) -> list[float]:
    """β·ln(π/π_ref) of each response."""
    tokenizer = load_tokenizer(source.policy)
    if not same_tokens(load_tokenizer(source.ref), tokenizer):
        raise ConfigError(
            "The policies read different tokens, so their log-probabilities cannot be compared.",
            where=f"{source.policy} and {source.ref}",
            fix="Name as ref the policy that the other was trained from.",
        )
    examples = _examples(tokenizer, responses, source.max_length)
    both = [
        _log_probs(path, tokenizer, examples, source, device, pick_dtype(precision, device))
        for path in (source.policy, source.ref)
    ]
    return [source.beta * (own - ref) for own, ref in zip(*both, strict=True)]


def _examples(tokenizer: PreTrainedTokenizerBase, responses: Sequence[Response], max_length: int) -> list[Example]:
    """Each response after its prompt; one cut at the token limit has no end of turn, as it was sampled."""
    prompts = many_prompt_ids(tokenizer, [response.prompt.messages for response in responses])
    answers = many_response_ids(tokenizer, [response.text for response in responses])
    end, examples = end_id(tokenizer), []
    for response, prompt, answer in zip(responses, prompts, answers, strict=True):
        ids = [*prompt, *answer, *([end] if response.finished else [])]
        if len(ids) > max_length:
            raise DataError(
                f"A prompt and its response have {len(ids)} tokens, and max_length is {max_length}.",
                where=f"prompt {response.prompt.id}: {response.prompt.text[:60]!r}",
                why="the log-probability of a part is not that of the response",
                fix="Raise max_length of the log_ratio source, or leave the response out.",
            )
        examples.append(Example(ids, len(prompt), False))
    return examples


def _log_probs(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    source: LogRatioScore,
    device: torch.device,
    dtype: torch.dtype,
) -> list[float]:
    """`sequence_log_probs` of each response; one policy at a time is in memory."""
    model = load_causal_lm(path, dtype=dtype, device=device)
    check_fit(model, tokenizer, max(len(example.ids) for example in examples))
    return sequence_log_probs(model, tokenizer, examples, device, source.batch_size)


def _inputs(config: ScoreConfig) -> dict[str, Path]:
    inputs = input_paths(config.responses, "responses")
    for name, source in (("reward", config.reward), ("cost", config.cost)):
        match source:
            case ModelScore() | GuardScore():
                inputs[name] = source.path
            case LogRatioScore():
                inputs |= {f"{name}-policy": source.policy, f"{name}-ref": source.ref}
    return inputs
