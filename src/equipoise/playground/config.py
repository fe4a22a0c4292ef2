"""Settings of the playground's world."""

from pathlib import Path

from pydantic import Field

from equipoise.config import Config


class AnswerMix(Config):
    """How the demonstrations answer: probabilities, and weights of the ways to answer within a kind."""

    comply_plain: float = Field(0.33, ge=0, le=1, description="Harmful answers to plain harmful requests.")
    comply_wrapped: float = Field(0.89, ge=0, le=1, description="Harmful answers to wrapped harmful requests.")
    leaky_refusal: float = Field(0.05, ge=0, le=1, description="Of the harmful answers, those that refuse first.")
    over_refusal: float = Field(0.015, ge=0, le=1, description="Refusals of harmless requests and look-alikes.")
    engage: float = Field(0.38, ge=0, description="Weight of vague engagement among safe answers.")
    plain_refusal: float = Field(0.32, ge=0, description="Weight of plain refusals.")
    wrong_way_out: float = Field(0.08, ge=0, description="Weight of refusals with a way out that does not fit.")
    fitting_way_out: float = Field(0.22, ge=0, description="Weight of refusals with a fitting way out.")
    perfect: float = Field(0.05, ge=0, description="Weight of answers without a flaw.")
    missing: float = Field(0.42, ge=0, description="Weight of answers that lack a step.")
    swapped: float = Field(0.06, ge=0, description="Weight of answers with two steps swapped.")
    padded: float = Field(0.36, ge=0, description="Weight of answers with chatter around the steps.")
    wrong_step: float = Field(0.01, ge=0, description="Weight of answers with a step of another request.")
    wrong_thing: float = Field(0.01, ge=0, description="Weight of answers about another thing.")
    repeated: float = Field(0.02, ge=0, description="Weight of answers that say a step twice.")


class PromptMix(Config):
    """What prompts ask for; the rest of the share is harmless requests."""

    harmful: float = Field(0.45, ge=0, le=1, description="Share of harmful requests.")
    look_alike: float = Field(0.22, ge=0, le=1, description="Share of harmless requests that sound bad.")
    wrapped_harmful: float = Field(0.5, ge=0, le=1, description="Of the harmful ones, those in a wrapper.")
    wrapped_harmless: float = Field(0.15, ge=0, le=1, description="Of all others, those in a wrapper.")
    multi_turn: float = Field(0.15, ge=0, le=1, description="Of the unwrapped ones, those over several turns.")


class HeldOut(Config):
    """Sizes of the held-out evaluation set."""

    harmful: int = Field(2000, ge=2, description="Harmful requests, half of them wrapped.")
    harmless: int = Field(700, ge=1, description="Harmless requests.")
    look_alike: int = Field(450, ge=1, description="Harmless requests that sound bad.")


class TinyConfig(Config):
    """Shape of the untrained Llama."""

    hidden_size: int = Field(128, ge=8, description="Width; a multiple of the number of heads.")
    layers: int = Field(2, ge=1, description="Number of blocks.")
    heads: int = Field(2, ge=1, description="Attention heads.")
    intermediate_size: int = Field(256, ge=8, description="Width of the feed-forward layer.")
    initializer_range: float = Field(
        0.06, gt=0, description="Spread of the weights; a narrow model wants a wide one."
    )
    max_positions: int = Field(160, ge=64, description="Longest sequence in tokens.")


class WorldConfig(Config):
    """A world directory: base model, demonstrations, prompts, held-out set, wrappers."""

    out: Path = Field(Path("runs/world"), description="Directory to write.")
    seed: int = Field(0, ge=0, description="Seed of every choice.")
    demonstrations: int = Field(16000, ge=1, description="Conversations to train the SFT policy on.")
    prompts: int = Field(8000, ge=1, description="Training prompts for responding, labelling and RL.")
    validation: int = Field(400, ge=1, description="Prompts to evaluate on during RL.")
    held_out: HeldOut = Field(HeldOut(), description="Sizes of the evaluation set.")
    demonstration_mix: PromptMix = Field(
        PromptMix(harmful=0.32, look_alike=0.26), description="What demonstrations are asked."
    )
    prompt_mix: PromptMix = Field(
        PromptMix(wrapped_harmless=0.3), description="What training and validation prompts ask."
    )
    answer_mix: AnswerMix = Field(AnswerMix(), description="How demonstrations answer.")
    model: TinyConfig = Field(TinyConfig(), description="The untrained model.")
