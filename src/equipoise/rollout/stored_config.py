"""Settings of the stages on stored responses: scoring them, and making training data of them. No torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from equipoise.config import Config
from equipoise.data.source import DataSource
from equipoise.rollout.config import Device, EndpointScore, FunctionScore, GuardScore, ModelScore, Precision


class LogRatioScore(Config):
    """What a policy trained on preferences thinks of a response: ±β·ln(π/π_ref), its implicit reward or cost."""

    type: Literal["log_ratio"] = "log_ratio"
    policy: Path = Field(description="Directory of the policy π that was trained on preferences.")
    ref: Path = Field(description="Directory of the policy π_ref that it was trained from.")
    beta: float = Field(0.1, gt=0, description="β that it was trained with.")
    batch_size: int = Field(64, ge=1, description="Responses per forward pass.")
    max_length: int = Field(512, ge=8, description="Longest prompt plus response in tokens; longer is refused.")


StoredScore = Annotated[
    ModelScore | FunctionScore | EndpointScore | GuardScore | LogRatioScore, Field(discriminator="type")
]


class ScoreConfig(Config):
    """Give stored responses a reward, a cost or both; a score that is not asked for stays as it is."""

    out: Path = Field(description="Directory to write.")
    responses: tuple[DataSource, ...] = Field(min_length=1, description="Directories or files of responses.")
    reward: StoredScore | None = Field(None, description="Where rewards come from; unset: they stay as they are.")
    cost: StoredScore | None = Field(
        None,
        description="Where costs come from; unset: they stay as they are. log_ratio: of a policy that was trained "
        "to prefer the safer.",
    )
    device: Device = Field("auto", description="auto takes cuda, then mps, then cpu.")
    precision: Precision = Field("float32", description="Precision of the policies of log_ratio.")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.reward is None and self.cost is None:
            raise ValueError("name a reward, a cost or both: there is nothing to score")
        return self


LIMIT = "Limit on the mean cost."
LIMIT_FROM = (
    "Responses with costs, from whose mean the limit counts; unset: from cost 0. With the stored responses "
    "themselves, a limit of −1 asks for one unit less than they cost."
)


class FoundLam(Config):
    """λ that keeps the mean cost of the best policy near π_ref at the limit, found from the scores (MoCAN)."""

    type: Literal["found"] = "found"
    beta: float = Field(gt=0, description="β of the training that follows, in units of reward.")
    limit: float = Field(0.0, description=LIMIT)
    limit_from: tuple[DataSource, ...] = Field((), description=LIMIT_FROM)


class GivenLam(Config):
    """A fixed λ; 0 is the reward alone."""

    type: Literal["given"] = "given"
    value: float = Field(ge=0, description="λ.")


class SteppedLam(Config):
    """λ one dual step after that of earlier pairs, whose policy has answered since (C-DPO)."""

    type: Literal["stepped"] = "stepped"
    before: Path = Field(description="Finished directory of the earlier pairs.")
    answers: tuple[DataSource, ...] = Field(
        min_length=1, description="Answers of the policy trained on them, with costs."
    )
    lr: float = Field(0.1, gt=0, description="α: step of λ per unit of cost above the limit.")
    limit: float = Field(0.0, description=LIMIT)
    limit_from: tuple[DataSource, ...] = Field((), description=LIMIT_FROM)


Lam = Annotated[FoundLam | GivenLam | SteppedLam, Field(discriminator="type")]


class PairsConfig(Config):
    """Scored responses → preference pairs by r − λc."""

    out: Path = Field(description="Directory to write.")
    responses: tuple[DataSource, ...] = Field(
        min_length=1, description="Directories or files of responses with rewards and costs."
    )
    lam: Lam = Field(description="Where λ comes from.")
    labels: Literal["drawn", "best"] = Field(
        "drawn",
        description="drawn: the first is preferred with probability σ of the difference in r − λc, so that the "
        "policy that fits them is the constrained optimum; best: the higher one always is.",
    )
    pairs_per_prompt: int = Field(8, ge=1, description="The most pairs of samples of one prompt.")
    seed: int = Field(0, ge=0, description="Which pairs, and which labels.")


class BestScored(Config):
    """Of each prompt's responses, the one with the highest reward among those within the cost limit."""

    type: Literal["best_scored"] = "best_scored"
    responses: tuple[DataSource, ...] = Field(
        min_length=1, description="Directories or files of responses with rewards and costs."
    )
    cost_limit: float = Field(0.0, allow_inf_nan=False, description="Highest cost of a response that may be kept.")


class LabelledSafe(Config):
    """The responses that labellers called safe."""

    type: Literal["labelled_safe"] = "labelled_safe"
    labels: tuple[DataSource, ...] = Field(min_length=1, description="Files of safety labels.")


class SelectConfig(Config):
    """Responses → demonstrations of those worth imitating."""

    out: Path = Field(description="Directory to write.")
    keep: Annotated[BestScored | LabelledSafe, Field(discriminator="type")] = Field(
        description="Which responses to keep."
    )
