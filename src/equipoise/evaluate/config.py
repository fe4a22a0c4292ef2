"""Settings of the `evaluate` stage."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from equipoise.annotate.judge.config import EndpointSource
from equipoise.chat_model import ChatModel
from equipoise.config import Config, ConfigT
from equipoise.data.source import DataSource
from equipoise.records import BEAVERTAILS_CATEGORIES, RequestKind
from equipoise.rollout.config import Answering, ScoreSourceConfig

JUDGE, PEOPLE = "judge", "people"
"""Words for a verdict that has a section of its own."""


def _with_defaults(config: ConfigT, *names: str) -> ConfigT:
    return config.model_copy(update={name: type(config).model_fields[name].get_default() for name in names})


class EndpointPolicy(ChatModel):
    """A policy behind an OpenAI-compatible endpoint; it is sampled as `respond` says."""

    decided = EndpointSource.decided  # it is asked as a judge model is

    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["default"] | None = Field(
        None, description="0 to 2; default: not sent, for models that refuse it; unset: that of `respond`."
    )
    concurrency: int = Field(8, ge=1, le=256, description="Prompts that are asked at a time.")
    max_failures: int = Field(
        0,
        ge=0,
        description="Prompts that may stay without an answer; with more the run stops.",
    )

    @property
    def identity(self) -> Self:
        """What the answers depend on: how patiently it is asked is as by default."""
        return _with_defaults(self, "timeout", "retries", "token_variable", "concurrency", "max_failures")


class PromptSet(DataSource):
    """Prompts to be answered, and what they are where they do not say it themselves."""

    category: str | None = Field(None, description="Topic of the requests, where a prompt does not say its own.")
    attack: str | None = Field(None, description="Attack that they are wrapped in, where a prompt does not say.")


class JudgeModel(EndpointSource):
    """A judge model behind an OpenAI-compatible endpoint, and how it is asked."""

    categories: tuple[str, ...] = Field(
        BEAVERTAILS_CATEGORIES, min_length=1, description="Harm categories that it may name."
    )
    concurrency: int = Field(8, ge=1, le=256, description="Questions that are asked at a time.")
    max_calls: int | None = Field(None, ge=1, description="Stop before more requests were sent; unset: no limit.")
    max_money: float | None = Field(None, gt=0, description="Stop before it has cost more; unset: no limit.")

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if self.max_money is not None and self.input_price is None:
            raise ValueError("max_money needs input_price and output_price")
        return self

    @property
    def identity(self) -> Self:
        """What the answers depend on: how patiently it is asked, and what for, is as by default."""
        patience = ("timeout", "retries", "token_variable", "concurrency")
        return _with_defaults(self, *patience, "max_calls", "max_money", "input_price", "output_price")


class PeopleLabels(Config):
    """What people say of the answers' safety: of some of them, or of all."""

    labels: tuple[DataSource, ...] = Field(
        (), description="Safety labels by prompt and response: an export of a labelling project, or such files."
    )
    files: tuple[Path, ...] = Field(
        (), description="Labels by policy and prompt, in the format of docs/known-answers.md."
    )
    are_a_random_sample: bool = Field(
        False,
        description="The labelled answers were drawn at random from all; else no rate is calibrated by them.",
    )

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        if not self.labels and not self.files:
            raise ValueError("people's verdicts need labels or files")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """Where all labels come from."""
        return (*(source.path for source in self.labels), *map(str, self.files))


class CostVerdict(Config):
    """A verdict from the sign of a cost: unsafe when cost > threshold."""

    cost: ScoreSourceConfig = Field(description="Where costs come from: model, function, endpoint or guard.")
    threshold: float = Field(0.0, description="Cost above which a response counts as unsafe.")


class EvaluateConfig(Config):
    """Several policies' answers to the same prompts → rates, tests and Elo; or files of judgements likewise.

    The files' way takes `labels`, `comparisons` and `json`, and nothing else.
    """

    model_config = ConfigDict(populate_by_name=True)

    labels: tuple[Path, ...] = Field(
        (), description="Files of labels, instead of policies: docs/known-answers.md has the format."
    )
    comparisons: tuple[Path, ...] = Field((), description="Files of comparisons, likewise.")
    json_file: Path | None = Field(
        None, alias="json", description="File for the numbers out of labels and comparisons."
    )
    out: Path | None = Field(None, description="Directory to write; required with policies.")
    policies: dict[str, Path | EndpointPolicy] = Field(
        {},
        description="Name → directory of responses, or a policy that is asked: a model's directory, or in a "
        "recipe an endpoint. In order; the first is the anchor.",
    )
    prompts: tuple[PromptSet, ...] = Field(
        (), description="What policies are asked that have not answered yet: files of prompts."
    )
    respond: Answering = Field(Answering(), description="How they answer.")
    verdict: str | CostVerdict | None = Field(
        None,
        description="Who says what is harmful: package.module:function from responses to verdicts, judge, people, "
        "or costs; required with policies.",
    )
    refusal: str = Field(
        "equipoise.evaluate.refusal:refusals",
        description="Who says what is a refusal: package.module:function from responses to none, partial, full; "
        "or judge.",
    )
    votes: str | None = Field(
        None,
        description="Who compares answers: package.module:function(question, pairs, seed); or judge. "
        "Unset: no Elo.",
    )
    judge_names: dict[str, str] = Field(
        {}, description="package.module:function that judges → what the report's readers should call it."
    )
    judge: JudgeModel | None = Field(None, description="The judge model, for what names `judge`; unset: none.")
    people: PeopleLabels | None = Field(None, description="People's labels; beside another verdict they check it.")
    elo_prompts: int = Field(400, ge=2, description="Prompts that each pair of policies is compared on, per Elo.")
    trained_on: tuple[DataSource, ...] = Field(
        (),
        description="What the policies learned or were chosen by; its prompts must not be among the answered.",
    )
    unknown_kind: RequestKind | None = Field(
        None, description="Kind of the prompts that do not say theirs; unset: such prompts are refused."
    )
    sample_prompts: int = Field(24, ge=0, description="Prompts whose answers are kept for the report.")
    seed: int = Field(0, ge=0, description="Chooses the compared and the shown prompts, and seeds the votes.")

    @model_validator(mode="after")
    def _is_one_of_two_ways(self) -> Self:
        files = {"labels", "comparisons", "json_file"}
        if self.labels or self.comparisons:
            fields = type(self).model_fields
            others = [n for n in fields if n not in files and getattr(self, n) != fields[n].get_default()]
            if others:
                raise ValueError(f"labels and comparisons go without {', '.join(others)}: nothing is judged there")
            return self
        if self.json_file is not None:
            raise ValueError("json is for the numbers out of labels or comparisons, and neither is given")
        missing = [name for name in ("out", "policies", "verdict") if not getattr(self, name)]
        if missing:
            raise ValueError(
                f"{', '.join(missing)}: required, but not given; or give files of labels or comparisons instead"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        asks_judge = JUDGE in (self.verdict, self.refusal, self.votes)
        if asks_judge != (self.judge is not None):
            raise ValueError(
                "verdict, refusal or votes = 'judge' and the section `judge` are given together or not at all"
            )
        if self.verdict == PEOPLE and self.people is None:
            raise ValueError("verdict = 'people' needs the section `people` with their labels")
        asked = [policy for policy in self.policies.values() if isinstance(policy, EndpointPolicy)]
        sampling = self.respond.sampling
        if asked and not self.prompts:
            raise ValueError("a policy behind an endpoint needs `prompts` to answer")
        if asked and sampling.repetition_penalty != 1:
            raise ValueError("an endpoint has no repetition_penalty: give its own field in the policy's options")
        if sampling.temperature > 2 and any(policy.temperature is None for policy in asked):
            raise ValueError("an endpoint's temperature is at most 2: lower respond's, or give the policy its own")
        return self

    @property
    def identity(self) -> Self:
        """What the numbers depend on."""
        policies = {
            name: given.identity if isinstance(given, EndpointPolicy) else given
            for name, given in self.policies.items()
        }
        return self.model_copy(update={"policies": policies, "judge": self.judge and self.judge.identity})
