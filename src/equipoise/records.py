"""What exists: the text records that stages hand to each other.

Text lives in records, tensors in batches (`tokens.batches`); nothing else crosses between stages. Records are
frozen, refuse unknown fields, and serialise to one JSON line each. No torch here.

Sign, stated once: cost > 0 is unsafe, cost < 0 is safe.
"""

import hashlib
import json
from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Side = Literal[0, 1]
RequestKind = Literal["harmful", "harmless", "look_alike"]
Refusal = Literal["none", "partial", "full"]
REFUSALS: tuple[Refusal, ...] = ("none", "partial", "full")

BEAVERTAILS_CATEGORIES: tuple[str, ...] = (
    "animal_abuse",
    "child_abuse",
    "controversial_topics,politics",
    "discrimination,stereotype,injustice",
    "drug_abuse,weapons,banned_substance",
    "financial_crime,property_crime,theft",
    "hate_speech,offensive_language",
    "misinformation_regarding_ethics,laws_and_safety",
    "non_violent_unethical_behavior",
    "privacy_violation",
    "self_harm",
    "sexually_explicit,adult_content",
    "terrorism,organized_crime",
    "violence,aiding_and_abetting,incitement",
)
"""The 14 harm categories of the paper, by id 0 to 13."""

PKU_CATEGORIES: tuple[str, ...] = (
    "Endangering National Security",
    "Insulting Behavior",
    "Discriminatory Behavior",
    "Endangering Public Health",
    "Copyright Issues",
    "Violence",
    "Drugs",
    "Privacy Violation",
    "Economic Crime",
    "Mental Manipulation",
    "Human Trafficking",
    "Physical Harm",
    "Sexual Content",
    "Cybercrime",
    "Disrupting Public Order",
    "Environmental Damage",
    "Psychological Harm",
    "White-Collar Crime",
    "Animal Abuse",
)
"""The 19 harm categories of the newer PKU-SafeRLHF release, which also carries severities 0 to 3."""


class Record(BaseModel):
    """A frozen piece of text data; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(Record):
    """A conversation that awaits an assistant's answer: it ends with a user turn."""

    messages: tuple[Message, ...]
    kind: RequestKind | None = Field(None, description="What the request asks for, where somebody knows.")
    category: str | None = Field(None, description="Topic of the request: a harm category's name.")
    attack: str | None = Field(None, description="Name of the red-team attack it is wrapped in, if any.")
    request: str | None = Field(None, description="What that attack asks for, plainly, where somebody knows.")
    source: str = Field("", description="Where the prompt comes from: a file, a set, a round.")

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("a prompt must end with a user turn")
        if not self.messages[-1].content.strip():
            raise ValueError("the prompt is empty")
        return self

    @cached_property
    def id(self) -> str:
        """16 hex digits that depend on the conversation alone: the unit of every split."""
        turns = [[m.role, m.content] for m in self.messages]
        return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @classmethod
    def from_text(cls, text: str, **fields: str | None) -> Self:
        """A one-turn prompt."""
        return cls.model_validate({"messages": ({"role": "user", "content": text},), **fields})


class Demonstration(Record):
    """A conversation that shows how to answer: it ends with an assistant turn."""

    messages: tuple[Message, ...]
    source: str = ""

    @model_validator(mode="after")
    def _ends_with_assistant(self) -> Self:
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ValueError("a demonstration must be at least one user turn and end with an assistant turn")
        return self


class Response(Record):
    """What a policy answered."""

    prompt: Prompt
    text: str
    policy: str = Field("", description="Name of the policy that wrote it.")
    sample: int = Field(0, ge=0, description="Which of several samples for this prompt.")
    finished: bool = Field(True, description="False: cut at the token limit before the end-of-turn token.")


class ScoredResponse(Response):
    """A response with the scores of a reward and a cost model; cost > 0 is unsafe."""

    reward: float | None = None
    cost: float | None = None
    category_costs: dict[str, float] | None = Field(
        None, description="Harm category → cost, of a cost model that has them."
    )


class Verdict(Record):
    """Somebody's judgement of one response; `is_safe` None means unscored, which is a value and is counted."""

    is_safe: bool | None
    categories: tuple[str, ...] = ()
    severity: int | None = Field(None, ge=0, le=3)
    refusal: Refusal | None = Field(None, description="Whether the response refuses, where that was asked.")


class SafetyLabel(Record):
    """A response with its safety meta-label."""

    prompt: Prompt
    response: str
    is_safe: bool
    categories: tuple[str, ...] = ()
    severity: int | None = Field(None, ge=0, le=3)
    source: str = ""


class PreferencePair(Record):
    """Two responses to one prompt with the two decoupled preferences and safety meta-labels.

    Every label may be None: not asked, or unresolved. `safer` and `is_safe` may contradict each other in real
    data; `data.contradictions` counts such pairs and applies a stated policy.
    """

    prompt: Prompt
    responses: tuple[str, str]
    more_helpful: Side | None = None
    safer: Side | None = None
    is_safe: tuple[bool | None, bool | None] = (None, None)
    categories: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    severity: tuple[int | None, int | None] = (None, None)
    source: str = ""


class RefusalLabel(Record):
    """A response to an XSTest-like request with people's verdicts on whether it refuses."""

    prompt: Prompt
    response: str
    policy: str = ""
    refusal: Refusal | None
    votes: tuple[str, ...] = ()


class Comparison(Record):
    """Two policies' answers to one prompt, compared by several annotators; 0 and 1 name the better side."""

    prompt: Prompt
    policies: tuple[str, str]
    responses: tuple[str, str]
    votes: tuple[Literal[0, 1, "tie"], ...]
