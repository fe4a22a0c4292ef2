"""Where rewards and costs come from: a scorer of ours, a Python function, an HTTP endpoint, a guard classifier.

All of them read text and give one number per response, so the policy's tokenizer and the scorer's may differ.
Sign: a cost > 0 is unsafe. Left out: KL terms and penalties, which the loop adds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import openai
import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from equipoise.config import resolve_function
from equipoise.errors import EndpointError, EquipoiseError, EvaluationError, ModelError
from equipoise.models.backbone import CPU, check_fit, context_length, load_pretrained
from equipoise.models.normalize import Normalizer, normalize_costs, normalize_rewards
from equipoise.models.score_head import Kind, Scorer, load_scorer, read_head_settings
from equipoise.records import Response
from equipoise.rollout.config import EndpointScore, FunctionScore, GuardScore, ModelScore, ScoreSourceConfig
from equipoise.rollout.endpoint import ask, open_client
from equipoise.tokens.batches import ScoreBatch, Shape, parts_by_length
from equipoise.tokens.collate import collate_scores
from equipoise.tokens.template import load_tokenizer


class ScoreSource(Protocol):
    """Gives one number per response."""

    def score(self, responses: Sequence[Response]) -> list[float]:
        """Score responses, in order; every number is finite.

        Raises:
            EquipoiseError: The source gave something else; the message names it.
        """
        ...


def open_score_source(
    config: ScoreSourceConfig, *, device: torch.device | str = CPU, dtype: torch.dtype = torch.float32
) -> ScoreSource:
    """The source that a setting describes, loaded and ready.

    Args:
        config: Which one.
        device: Where a model goes.
        dtype: Precision of a scorer's backbone; its score stays float32.

    Raises:
        ModelError: There is no such model, or it is none that scores.
        ConfigError: There is no such function.
        EndpointError: The endpoint's token is not in the environment.
    """
    match config:
        case ModelScore():
            return model_source(config, load_scorer(config.path, dtype=dtype, device=device))
        case FunctionScore():
            return FunctionSource(resolve_function(config.function), config.function)
        case EndpointScore():
            return _open_endpoint(config)
        case GuardScore():
            return _open_guard(config, device)


@dataclass(frozen=True)
class ModelSource:
    """A reward or cost model in the layout of `models.score_head`."""

    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    normalizer: Normalizer
    name: str
    batch_size: int
    max_length: int  # tokens; a longer prompt loses its oldest tokens, a longer response its tail
    categories: tuple[str, ...] = ()  # harm categories with a cost of their own

    def score(self, responses: Sequence[Response]) -> list[float]:
        """See `ScoreSource`; the order and grouping of `responses` do not change a score beyond rounding."""
        return self.score_with_categories(responses)[0]

    def score_with_categories(self, responses: Sequence[Response]) -> tuple[list[float], list[list[float]]]:
        """The scores that `score` gives, and of each response a cost per category, in the order of `categories`.

        All come from one forward pass; a category's cost is above 0 where the response is harmful in that way.
        Without categories those lists are empty.

        Raises:
            EvaluationError: A number is not finite.
        """
        normalize = normalize_rewards if self.kind == "reward" else normalize_costs

        def forward(chunk: Sequence[Response]) -> Tensor:
            batch = _collated(self.tokenizer, chunk, self.max_length).to(self.scorer.backbone.device)
            outputs = self.scorer(*batch.inputs).reshape(len(chunk), -1)
            return normalize(outputs, self.normalizer)

        rows = _by_length(responses, self.batch_size, forward)
        scores, *costs = (
            _checked([row[k] for row in rows], responses, self.name) for k in range(1 + len(self.categories))
        )
        return scores, [list(one) for one in zip(*costs, strict=True)] or [[] for _ in rows]


@dataclass(frozen=True)
class FunctionSource:
    """Any Python function from a list of responses to one number each."""

    function: Callable[[Sequence[Response]], Sequence[float]]
    name: str

    def score(self, responses: Sequence[Response]) -> list[float]:
        """See `ScoreSource`."""
        return _checked(self.function(responses), responses, self.name)


@dataclass(frozen=True)
class EndpointSource:
    """An HTTP endpoint; attempts, pauses and timeouts are those of the `openai` client."""

    client: openai.OpenAI
    url: str
    batch_size: int

    def score(self, responses: Sequence[Response]) -> list[float]:
        """See `ScoreSource`.

        Raises:
            EndpointError: It cannot be reached, refuses, or answers something else.
        """
        chunks = [responses[i : i + self.batch_size] for i in range(0, len(responses), self.batch_size)]
        return [score for chunk in chunks for score in _checked(self._ask(chunk), chunk, self.url, EndpointError)]

    def _ask(self, responses: Sequence[Response]) -> list[float]:
        turns = [[{"role": m.role, "content": m.content} for m in r.prompt.messages] for r in responses]
        pairs = zip(turns, responses, strict=True)
        body = {"responses": [{"prompt": prompt, "response": r.text} for prompt, r in pairs]}
        fix = 'It must answer {"scores": [one number per response]} with status 200; see docs/scoring.md.'
        what = "The scoring endpoint did not answer usefully."
        return ask(self.client, self.url, _Scores, body, what=what, fix=fix).scores


@dataclass(frozen=True)
class GuardSource:
    """A sequence classifier whose log-odds of "unsafe" are the cost."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    unsafe: tuple[int, ...]  # label numbers
    text: Literal["conversation", "response"]
    name: str
    batch_size: int
    max_length: int

    def score(self, responses: Sequence[Response]) -> list[float]:
        """See `ScoreSource`."""
        rows = _by_length(responses, self.batch_size, lambda chunk: self._log_odds(chunk).unsqueeze(1))
        return _checked([cost for [cost] in rows], responses, self.name)

    def _log_odds(self, responses: Sequence[Response]) -> Tensor:
        """Log-odds, ln P(unsafe) − ln P(safe), of a softmax; of independent labels, the largest unsafe logit."""
        inputs = self._conversations(responses) if self.text == "conversation" else self._texts(responses)
        logits: Tensor = self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits.float()
        safe = [label for label in range(logits.shape[1]) if label not in self.unsafe]
        if not safe or self.model.config.problem_type == "multi_label_classification":
            return logits[:, self.unsafe].amax(dim=1)
        return logits[:, self.unsafe].logsumexp(dim=1) - logits[:, safe].logsumexp(dim=1)

    def _conversations(self, responses: Sequence[Response]) -> dict[str, Tensor]:
        batch = _collated(self.tokenizer, responses, self.max_length)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}

    def _texts(self, responses: Sequence[Response]) -> dict[str, Tensor]:
        texts = [response.text for response in responses]
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        )


class _Scores(BaseModel):
    """What a scoring endpoint answers."""

    scores: list[float]


def model_source(config: ModelScore, scorer: Scorer) -> ModelSource:
    """The source that asks a scorer, which is the one in `config.path`, loaded.

    Raises:
        ModelError: The tokenizer there does not belong to the scorer.
    """
    settings = read_head_settings(config.path)
    tokenizer, length = load_tokenizer(config.path), _fitting_length(config.max_length, scorer.backbone)
    check_fit(scorer.backbone, tokenizer, length)
    return ModelSource(
        scorer=scorer,
        tokenizer=tokenizer,
        kind=settings.kind,
        normalizer=settings.normalizer,
        name=str(config.path),
        batch_size=config.batch_size,
        max_length=length,
        categories=settings.categories,
    )


def _open_endpoint(config: EndpointScore) -> EndpointSource:
    url = str(config.url)
    client = open_client(url, config.token_variable, config.timeout, config.retries)
    return EndpointSource(client, url, config.batch_size)


def _open_guard(config: GuardScore, device: torch.device | str) -> GuardSource:
    model = load_pretrained(AutoModelForSequenceClassification, config.path, dtype=torch.float32, device=device)
    tokenizer = load_tokenizer(config.path)
    labels = {str(name): int(number) for name, number in (model.config.label2id or {}).items()}
    unknown = [label for label in config.unsafe_labels if label not in labels]
    if unknown:
        raise ModelError(
            f"The classifier has no label {unknown[0]!r}.",
            where=str(config.path),
            fix=f"Its labels are: {', '.join(labels)}.",
        )
    if model.config.pad_token_id is None:  # a causal classifier finds its last token by it
        model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side = "left"
    return GuardSource(
        model=model,
        tokenizer=tokenizer,
        unsafe=tuple(labels[label] for label in config.unsafe_labels),
        text=config.text,
        name=str(config.path),
        batch_size=config.batch_size,
        max_length=_fitting_length(config.max_length, model),
    )


def _fitting_length(wanted: int, model: PreTrainedModel) -> int:
    return min(wanted, context_length(model) or wanted)


def _collated(tokenizer: PreTrainedTokenizerBase, responses: Sequence[Response], max_length: int) -> ScoreBatch:
    pairs = [(response.prompt.messages, response.text) for response in responses]
    return collate_scores(tokenizer, pairs, max_length, too_long="cut_left").batch


@torch.no_grad()
def _by_length(
    responses: Sequence[Response], size: int, forward: Callable[[Sequence[Response]], Tensor]
) -> list[list[float]]:
    """What `forward` (≤ size responses → (n, C)) gives for all responses, run on batches of similar length."""
    numbers: dict[str, int] = {}
    family = [numbers.setdefault(response.prompt.id, len(numbers)) for response in responses]
    shapes = [Shape(1, _characters(response), one) for response, one in zip(responses, family, strict=True)]
    rows: list[list[float]] = [[]] * len(responses)
    for chunk in parts_by_length(shapes, size):
        for i, row in zip(chunk, forward([responses[i] for i in chunk]).tolist(), strict=True):
            rows[i] = row
    return rows


def _characters(response: Response) -> int:
    return len(response.text) + sum(len(m.content) for m in response.prompt.messages)


def _checked(
    scores: Sequence[Any],
    responses: Sequence[Response],
    where: str,
    error: type[EquipoiseError] = EvaluationError,
) -> list[float]:
    """The scores as floats.

    Raises:
        EquipoiseError: They are not as many as the responses, or one is no finite number.
    """
    if len(scores) != len(responses):
        raise error(
            f"The scorer gave {len(scores)} scores for {len(responses)} responses.",
            where=where,
            fix="Return one number per response, in order.",
        )
    values = [float(score) for score in scores]
    wrong = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
    if wrong is not None:
        raise error(
            f"The score of response {wrong} is {values[wrong]}.",
            where=where,
            why=f"the response is {responses[wrong].text[:80]!r}",
            fix="Scores must be finite numbers; leave out what cannot be scored before it comes here.",
        )
    return values
