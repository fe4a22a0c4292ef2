"""The methods of the study by name: how they are called, what each needs, and which steps make it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from studies.read import SFT

LAG, TIGHT, LOOSE = "ppo-lag", "ppo-lag-tight", "ppo-lag-loose"
LIMITS = (TIGHT, LAG, LOOSE)
"""PPO-Lag as the paper has it, the tightest limit first: the front that others are held against."""
CRITIC_FREE = ("group", "rloo")
UNCOMPENSATED = ("rectified", "chance", "groups", "categories")
PLAIN_DUALS = {LAG: "logarithmic", "projected": "projected"}
DAMPED_DUALS = {"pid": "PID", "optimistic": "optimistic"}
SCORED = "shared/scored"

ACTOR_CRITIC = "6: actor, reference, reward, cost, 2 critics"
ONE_CRITIC = "5: actor, reference, reward, cost, 1 critic"
NO_CRITIC = "4: actor, reference, reward, cost"
ALONE = "1: the policy"
ON_POLICY = "its own"
STORED = "stored ones of SFT, scored"
LABELLED = "labelled ones of SFT"


class Method(NamedTuple):
    """A method, and what it needs beside the first policy."""

    name: str
    label: str
    short: str  # in figures
    networks: str  # in memory while it trains
    answers: str  # which ones it learns from
    also: tuple[str, ...] = ()  # steps that it needs beside its own


GROUPS = {
    "PPO-Lag, by its limit": (
        Method(TIGHT, "PPO-Lag, limit −0.8", "−0.8", ACTOR_CRITIC, ON_POLICY),
        Method(LAG, "PPO-Lag, limit +0.8", "PPO-Lag", ACTOR_CRITIC, ON_POLICY),
        Method(LOOSE, "PPO-Lag, limit +2.4", "+2.4", ACTOR_CRITIC, ON_POLICY),
    ),
    "advantage": (
        Method("shared-trunk", "one critic with two heads", "one critic", ONE_CRITIC, ON_POLICY),
        Method("group", "group-relative", "group", NO_CRITIC, ON_POLICY),
        Method("rloo", "leave one out", "rloo", NO_CRITIC, ON_POLICY),
    ),
    "constraint": (
        Method("rectified", "rectified per answer", "rectified", ACTOR_CRITIC, ON_POLICY),
        Method("chance", "chance", "chance", ACTOR_CRITIC, ON_POLICY),
        Method("upper-bound", "upper bound of the mean", "upper bound", ACTOR_CRITIC, ON_POLICY),
        Method("groups", "a limit per category of request", "groups", ACTOR_CRITIC, ON_POLICY),
        Method("categories", "a limit per category of harm", "categories", ACTOR_CRITIC, ON_POLICY),
        Method("fixed", "fixed ν = 0.5", "fixed", ACTOR_CRITIC, ON_POLICY),
        Method("none", "no constraint", "none", "5: actor, reference, reward, cost, 1 critic", ON_POLICY),
    ),
    "dual": (
        Method("projected", "projected ascent", "projected", ACTOR_CRITIC, ON_POLICY),
        Method("pid", "PID", "pid", ACTOR_CRITIC, ON_POLICY),
        Method("optimistic", "optimistic ascent", "optimistic", ACTOR_CRITIC, ON_POLICY),
    ),
    "without RL": (
        Method("safe-sft", "SFT on safe answers", "safe-sft", ALONE, LABELLED),
        Method("rejection", "rejection sampling", "rejection", ALONE, STORED, (SCORED,)),
        Method("dpo", "DPO, helpfulness", "dpo", ALONE, LABELLED),
        Method("dpo-harmless", "DPO, harmlessness", "dpo-harmless", ALONE, LABELLED),
        Method("sacpo", "SACPO", "sacpo", ALONE, LABELLED, ("policies/dpo-harmless",)),
        Method("safe-dpo", "SafeDPO", "safe-dpo", ALONE, LABELLED),
        Method("modpo", "MODPO", "modpo", ALONE, LABELLED),
        Method("mocan", "MoCAN", "mocan", ALONE, STORED, (SCORED,)),
        Method("c-dpo", "C-DPO", "c-dpo", ALONE, STORED, (SCORED,)),
    ),
    "SFT, and steering": (
        Method(SFT, "SFT", "SFT", ALONE, "demonstrations"),
        Method(
            "merged",
            "mean of −0.8 and +2.4",
            "merged",
            "none",
            "none",
            (f"policies/{TIGHT}", f"policies/{LOOSE}"),
        ),
        Method("best-of-4", "best of 4 of SFT", "best of 4", "3 as it answers: policy, reward, cost", "none"),
    ),
}
METHODS = {method.name: method for group in GROUPS.values() for method in group}


def steps_of(method: Method, steps: Sequence[str]) -> list[str]:
    """Those steps of a study that make a method's policy, from the first policy, the labels and the scorers on.

    Args:
        method: Which.
        steps: All of the study.
    """
    own = re.compile(rf"policies/{re.escape(method.name)}(-\d+)?(-pairs|-answers)?")
    return [step for step in steps if step in method.also or own.fullmatch(step)]
