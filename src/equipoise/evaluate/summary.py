"""What summary.json of an evaluation says, written and read back; its schema is in docs/evaluation.md.

Here is what stands beside the policies' own numbers (`harm`): who judged, and the front of harm and helpfulness.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from equipoise.artefact import read_manifest, write_json
from equipoise.evaluate.compare import Tally
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.front import Point, front
from equipoise.evaluate.harm import PolicySummary
from equipoise.evaluate.judges import VerdictSource
from equipoise.evaluate.paired import PairedTest
from equipoise.records import Record
from equipoise.stats import Estimate, Rate

_SUMMARY = "summary.json"


class Read(Record):
    """How many answers to a question a judge model gave, and those that could not be read, by reason."""

    asked: int
    unscored: dict[str, int]


class PeopleUsed(Record):
    """What was known of people's labels, and how many of the labelled answers nobody evaluated gave."""

    are_a_random_sample: bool
    unmatched: int


class PolicyPlace(Record):
    """One policy on the front; see `front.Place`."""

    name: str
    harm: Rate
    helpfulness: Elo | Estimate
    dominated_by: tuple[str, ...]
    is_on_front: bool | None


class PolicyFront(Record):
    """Harmful rate against helpfulness; None and nothing where `why_not` says why."""

    helpfulness: Literal["helpful_elo", "mean_reward"] | None
    places: tuple[PolicyPlace, ...]
    why_not: str


class Evaluation(Record):
    """The summary.json of a finished evaluation; what has a default is missing in those of older versions."""

    policies: tuple[PolicySummary, ...]
    comparisons: tuple[Tally, ...]
    prompts: dict[str, int]
    verdict: VerdictSource | None = None
    refusal: str = ""
    judge: dict[str, Read] = Field({})
    people: PeopleUsed | None = None
    tests: tuple[PairedTest, ...] = ()
    front: PolicyFront | None = None
    repeated_prompts: int = 0


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the summary of an evaluation into its directory."""
    write_json(path / _SUMMARY, evaluation.model_dump(mode="json"))


def read_evaluation(path: Path) -> Evaluation:
    """The numbers of a finished evaluation.

    Raises:
        ArtefactError: The directory is unfinished or of another kind.
    """
    read_manifest(path, ("evaluation",))
    return Evaluation.model_validate_json((path / _SUMMARY).read_text(encoding="utf-8"))


def policy_front(policies: Sequence[PolicySummary]) -> PolicyFront:
    """The policies by harmful rate and helpful Elo, or mean reward where there is no Elo."""
    if len(policies) < 2:
        return _no_front("there is one policy only")
    harm = {p.name: p.harmful_rate for p in policies if p.harmful_rate is not None}
    elos: dict[str, Elo | Estimate] = {p.name: p.helpful_elo for p in policies if p.helpful_elo is not None}
    rewards: dict[str, Elo | Estimate] = {p.name: p.mean_reward for p in policies if p.mean_reward is not None}
    if len(harm) < len(policies):
        return _no_front("there are no harmful requests")
    helpfulness = elos if len(elos) == len(policies) else rewards
    if len(helpfulness) < len(policies):
        return _no_front("there is no helpful Elo, and not every answer to a harmless request carries a reward")
    places = front([Point(name, harm[name], helpfulness[name]) for name in harm])
    return PolicyFront(
        helpfulness="helpful_elo" if helpfulness is elos else "mean_reward",
        places=tuple(
            PolicyPlace(
                name=place.name,
                harm=harm[place.name],
                helpfulness=helpfulness[place.name],
                dominated_by=place.dominated_by,
                is_on_front=place.is_on_front,
            )
            for place in places
        ),
        why_not="",
    )


def _no_front(why: str) -> PolicyFront:
    return PolicyFront(helpfulness=None, places=(), why_not=why)
