"""Settings of sampling, scoring, responding, serving and chatting, without torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, HttpUrl, model_validator

from equipoise.chat_model import ChatModel
from equipoise.config import Config
from equipoise.data.source import DataSource

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["float32", "bfloat16", "float16"]


class Sampling(Config):
    """How responses are drawn; the log-probabilities that a rollout carries are those of this distribution."""

    max_new_tokens: int = Field(256, ge=1, description="Longest response in tokens, end of turn included.")
    temperature: float = Field(
        1.0, ge=0, description="Logits are divided by it; 0 takes the most probable token (not in training)."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the fewest tokens with this probability.")
    repetition_penalty: float = Field(
        1.0, gt=0, description="Logits of tokens already seen are divided (if negative, multiplied) by it."
    )


class ModelScore(Config):
    """Scores of a reward or cost model of ours."""

    type: Literal["model"] = "model"
    path: Path = Field(description="Directory of the scorer: reward or cost stage, or a converted checkpoint.")
    batch_size: int = Field(64, ge=1, description="Responses per forward pass.")
    max_length: int = Field(512, ge=8, description="Longest prompt plus response, in the scorer's own tokens.")


class FunctionScore(Config):
    """Scores of a Python function."""

    type: Literal["function"] = "function"
    function: str = Field(
        pattern=r"^[\w.]+:[\w.]+$",
        description="package.module:function from responses to one number each.",
    )


class EndpointScore(Config):
    """Scores of an HTTP endpoint: POST {"responses": [{"prompt": …, "response": …}]} → {"scores": […]}."""

    type: Literal["endpoint"] = "endpoint"
    url: HttpUrl = Field(description="Where to POST.")
    batch_size: int = Field(64, ge=1, description="Responses per request.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for one answer.")
    retries: int = Field(3, ge=0, description="Further attempts when the connection fails or the server is busy.")
    token_variable: str | None = Field(
        None, description="Environment variable that holds a bearer token; unset: the token `none`."
    )


class GuardScore(Config):
    """Logit of a guard classifier: log-odds of the unsafe labels against the safe ones, > 0 unsafe."""

    type: Literal["guard"] = "guard"
    path: Path = Field(description="Directory that AutoModelForSequenceClassification loads.")
    unsafe_labels: tuple[str, ...] = Field(
        min_length=1, description="Labels (of the model's id2label) that mean unsafe; all others mean safe."
    )
    text: Literal["conversation", "response"] = Field(
        "conversation", description="What is classified: prompt and response, or the response alone."
    )
    batch_size: int = Field(64, ge=1, description="Responses per forward pass.")
    max_length: int = Field(512, ge=8, description="Longest text in tokens; longer ones lose their beginning.")


ScoreSourceConfig = Annotated[ModelScore | FunctionScore | EndpointScore | GuardScore, Field(discriminator="type")]


class NativeSettings(Config):
    """Our own decode loop, on the model itself."""

    type: Literal["native"] = "native"
    slots: int | None = Field(
        None,
        ge=1,
        description="The most responses that are written at a time; unset: 256 in RL, batch_size elsewhere.",
    )


class HfSettings(Config):
    """`generate` of transformers, on the model itself: the yardstick, slower."""

    type: Literal["hf"] = "hf"


class VllmSettings(Config):
    """vLLM on the GPU of the run, asleep unless it samples; one whole copy of the policy per process."""

    type: Literal["vllm"] = "vllm"
    gpu_memory: float = Field(
        0.3, gt=0, le=1, description="Share of the GPU that vLLM may take: its weights, and keys and values."
    )
    folder: Path | None = Field(
        None,
        description="Where weights are handed over, of this run alone (/dev/shm/… is memory); unset: in `out`.",
    )


class VllmServerSettings(Config):
    """A running `vllm serve`, which is given the policy's weights through files that it can read."""

    type: Literal["vllm_server"] = "vllm_server"
    url: HttpUrl = Field(description="Where it listens, without /v1.")
    model: str | None = Field(None, description="Name of the policy's base there; unset: the first it lists.")
    folder: Path | None = Field(
        None,
        description="Where weights are handed over, of this run alone, the same path for the server; "
        "unset: in `out`.",
    )
    connections: int = Field(64, ge=1, description="Prompts that are asked at a time, by each process.")
    timeout: float = Field(600.0, gt=0, description="Seconds to wait for one answer.")
    retries: int = Field(3, ge=0, description="Further attempts when the connection fails or the server is busy.")
    token_variable: str | None = Field(
        None, description="Environment variable that holds a bearer token; unset: the token `none`."
    )


SamplerConfig = Annotated[
    NativeSettings | HfSettings | VllmSettings | VllmServerSettings, Field(discriminator="type")
]


class ChatEndpoint(ChatModel):
    """A model behind an OpenAI-compatible endpoint in a conversation: attacker or target."""

    decided = ChatModel.decided | {"top_p"}

    connections: int = Field(8, ge=1, le=256, description="Questions that are asked at a time.")
    max_characters: int = Field(
        20_000, ge=1, description="Longest conversation in characters; nothing here counts its tokens."
    )


class Asking(Config):
    """Which policy answers which prompts."""

    out: Path = Field(description="Directory to write.")
    policy: Path = Field(description="Directory of the policy.")
    prompts: tuple[DataSource, ...] = Field(
        min_length=1, description="Files of prompts, or anything with prompts."
    )
    name: str = Field("", description="Name of the policy in the responses; unset: its directory's name.")
    samples_per_prompt: int = Field(1, ge=1, description="Responses to each prompt.")
    limit: int | None = Field(None, ge=1, description="Answer only this many prompts; unset: all.")
    keep: Literal["first", "evenly"] = Field(
        "first", description="Which prompts `limit` keeps: the first ones, or ones evenly spread over the files."
    )
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="Longer prompts: stop and name them, or leave them out and count them."
    )


class Answering(Config):
    """How a policy answers."""

    sampling: Sampling = Field(Sampling(), description="How responses are drawn.")
    sampler: SamplerConfig = Field(NativeSettings(), description="What draws them.")
    max_prompt_length: int = Field(512, ge=1, description="Longest prompt in tokens.")
    reward: ScoreSourceConfig | None = Field(None, description="Attach a reward to each response; unset: none.")
    cost: ScoreSourceConfig | None = Field(None, description="Attach a cost to each response; unset: none.")
    batch_size: int = Field(64, ge=1, description="The most responses that are written at a time.")
    seed: int = Field(42, ge=0, description="Seed of the sampling.")
    device: Device = Field("auto", description="auto takes cuda, then mps, then cpu.")
    precision: Precision = Field("float32", description="Precision of the policy.")


class BestOf(Config):
    """Of n responses the one of highest reward among those within a cost limit is given."""

    n: int = Field(4, ge=1, description="Responses that are written for each one that is given.")
    limit: float = Field(
        0.0, allow_inf_nan=False, description="Highest cost that is accepted; a cost > 0 is unsafe."
    )
    refusal: str | None = Field(
        None,
        min_length=1,
        description="Text that is given where none of the n is within the limit; unset: the one of lowest cost.",
    )


def _check_best_of(best_of: BestOf | None, reward: object, cost: object) -> None:
    if best_of is not None and (reward is None or cost is None):
        raise ValueError("best_of chooses by reward and cost: give both")


class RespondConfig(Answering, Asking):
    """A policy answers prompts."""

    best_of: BestOf | None = Field(
        None, description="Give the best of several responses, by reward under a cost limit; unset: each one."
    )

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        _check_best_of(self.best_of, self.reward, self.cost)
        return self


class ServeConfig(Config):
    """An OpenAI-compatible endpoint for a policy."""

    policy: Path = Field(description="Directory of the policy.")
    host: str = Field("127.0.0.1", description="Address to listen on; the default is this machine only.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    name: str = Field("", description="Model name that the endpoint lists; unset: the policy directory's name.")
    sampling: Sampling = Field(Sampling(), description="Used where a request does not say.")
    best_of: BestOf | None = Field(
        None, description="Give the best of several answers, by reward under a cost limit; unset: each one."
    )
    reward: ScoreSourceConfig | None = Field(None, description="The rewards that best_of chooses by.")
    cost: ScoreSourceConfig | None = Field(None, description="The costs that best_of chooses by.")
    seed: int = Field(42, ge=0, description="Seed of the sampling of requests without one of their own.")
    device: Device = Field("auto", description="auto takes cuda, then mps, then cpu.")
    precision: Precision = Field("float32", description="Precision of the policy.")

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        _check_best_of(self.best_of, self.reward, self.cost)
        if self.best_of is None and (self.reward is not None or self.cost is not None):
            raise ValueError("reward and cost are there for best_of, which is not set")
        return self


class ChatConfig(Config):
    """A conversation with a policy in the terminal, each answer scored."""

    policy: Path = Field(description="Directory of the policy.")
    reward: ScoreSourceConfig | None = Field(None, description="Shows a reward beside each answer; unset: none.")
    cost: ScoreSourceConfig | None = Field(None, description="Shows a cost beside each answer; unset: none.")
    system: str = Field("", description="System message that opens the conversation; empty: none.")
    sampling: Sampling = Field(Sampling(), description="How answers are drawn.")
    best_of: BestOf | None = Field(
        None, description="Show the best of several answers, by reward under a cost limit; unset: the first."
    )
    seed: int = Field(42, ge=0, description="Seed of the sampling.")
    device: Device = Field("auto", description="auto takes cuda, then mps, then cpu.")
    precision: Precision = Field("float32", description="Precision of the policy.")

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        _check_best_of(self.best_of, self.reward, self.cost)
        return self
