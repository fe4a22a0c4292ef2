"""What goes wrong in RL without stopping it, said in words. Pure functions of the metrics so far; no torch."""

from collections.abc import Sequence
from statistics import fmean

WINDOW = 20
"""Steps that an alarm looks back on."""
MISMATCH = 0.1
"""Nats per token; a guess."""
Metrics = dict[str, float]


def alarms(history: Sequence[Metrics], ceiling: float, floor: float) -> list[str]:
    """What a person who watches the curves would say after the newest step.

    Each alarm fires on the step its condition becomes true, not on every step it holds.

    Args:
        history: Metrics of the run from its first step on, oldest first.
        ceiling: Largest λ.
        floor: Smallest λ.
    """
    now, before = _conditions(history, ceiling, floor), _conditions(history[:-1], ceiling, floor)
    return [message for name, message in now.items() if name not in before]


def _conditions(history: Sequence[Metrics], ceiling: float, floor: float) -> dict[str, str]:
    """Every condition that holds, by name."""
    if not history:
        return {}
    recent, last = history[-WINDOW:], history[-1]
    found: dict[str, str] = {}
    first = fmean(m["response_length"] for m in history[:WINDOW])
    if last["kl"] > max(10.0, first):  # 1 nat per token of the first responses
        found["kl"] = (
            f"the policy is {last['kl']:.3g} nats from its reference: raise kl_coef or lower the actor's lr"
        )
    if (mismatch := last.get("sampler_mismatch", 0.0)) > MISMATCH:
        found["mismatch"] = (
            f"the sampler's log-probabilities are {mismatch:.3g} nats per token from the actor's: it may have "
            "other weights, another precision, or not give the log-probabilities of what it draws from"
        )
    if len(history) < WINDOW:
        return found
    several = [key.removeprefix("lambda") for key in last if key.startswith("lambda/")]
    for end in several or [""]:
        by = _excess(recent, end)
        if floor < ceiling and all(m[f"lambda{end}"] >= ceiling for m in recent) and by > 0:
            found[f"ceiling{end}"] = (
                f"λ{end and f' of {end[1:]}'} has been at its ceiling {ceiling:g} for {WINDOW} steps while the "
                f"constraint is exceeded by {by:.3g}: the limit may be out of reach, or the ceiling too low"
            )
    by = _excess(recent)
    if floor < ceiling and all(m["lambda"] <= floor for m in recent):
        found["floor"] = (
            f"λ has been at its floor {floor:g} for {WINDOW} steps, {-by:.3g} below the limit, which does not bind"
        )
    if all(m["repeated_share"] > 0.9 for m in recent):
        found["same"] = (
            "more than 90 % of the responses are the same text: the policy has collapsed, or only refuses"
        )
    elif all(m["same_start_share"] > 0.9 for m in recent):
        found["start"] = (
            "more than 90 % of the responses start with the same three words: the policy may only refuse"
        )
    if all(m["unfinished_share"] > 0.5 for m in recent):
        found["unfinished"] = (
            "more than half of the responses never end: raise max_new_tokens or unfinished_penalty"
        )
    length = fmean(m["response_length"] for m in recent)
    if length > 2 * first or length < first / 2:
        found["length"] = f"response length drifted from {first:.3g} to {length:.3g} tokens"
    return found


def _excess(recent: Sequence[Metrics], end: str = "") -> float:
    """The mean excess of the steps that know it; `end` is "/NAME" for one of several constraints."""
    known = [m[f"excess{end}"] for m in recent if f"excess{end}" in m]
    return fmean(known) if known else 0.0
