"""Every number of the page: policies, claims with their outcome in words, cost models."""

from collections.abc import Sequence

from claims import FAR_LESS, all_dominated, gains_far_less, is_worse, reaches_beyond
from seeds import (
    CLASSIFIER,
    FIXED,
    FULL,
    LIMITS,
    MIXED,
    PLAIN,
    RANKING,
    SAFE_SFT,
    ZERO,
    cost_models,
    elo_of,
    settings,
    training_of,
)
from studies.estimates import Measured, contrast
from studies.read import SFT, Seed
from studies.relations import Comparison, Relation, compare
from studies.words import Tree, ahead, comparison_tree, less, moves, points, policies_of

LABELS = {
    SFT: "SFT",
    SAFE_SFT: "SFT on safe answers",
    "lag-minus-0.8": "PPO-Lag, limit −0.8",
    FULL: "PPO-Lag, limit +0.8",
    "lag-2.4": "PPO-Lag, limit +2.4",
    "lag-4.0": "PPO-Lag, limit +4.0",
    PLAIN: "plain PPO",
    **{name: f"ν\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{name.removeprefix('nu-')}" for name in FIXED},
    MIXED: "one mixed label",
    RANKING: "no sign term",
    CLASSIFIER: "bare classifier",
    ZERO[0]: "PPO-Lag, limit at cost 0",
    ZERO[1]: "no sign term, limit at cost 0",
    ZERO[2]: "bare classifier, limit at cost 0",
}


def numbers_of(seeds: Sequence[Seed]) -> Tree:
    """Everything that the page shows, as JSON values."""
    measures = [seed.harm for seed in seeds], [seed.helpfulness for seed in seeds]
    return {
        "seeds": [seed.seed for seed in seeds],
        "seconds": [seed.seconds for seed in seeds],
        "prompts": {"harmful": len(seeds[0].harm.prompts), "others": len(seeds[0].refusal.prompts)},
        "settings": settings(seeds[0]),
        "policies": _policies(seeds),
        "claims": claims_of(*measures),
        "beside": beside_of(*measures),
        "cost_models": cost_models(seeds),
    }


def claims_of(harm: Sequence[Measured], helpfulness: Sequence[Measured]) -> list[Tree]:
    """The claims, each with its outcome, its reasons in words and the comparisons behind it."""
    ranking, classifier = "Dropping the sign term is worse", "A bare classifier as the cost is worse"
    return [
        _beyond(harm, helpfulness),
        _mixed(harm, helpfulness),
        _worse(ranking, RANKING, (FULL, *(limit for limit in LIMITS if limit != FULL)), harm, helpfulness),
        _worse(classifier, CLASSIFIER, (FULL, *(limit for limit in LIMITS if limit != FULL)), harm, helpfulness),
    ]


def beside_of(harm: Sequence[Measured], helpfulness: Sequence[Measured]) -> list[Tree]:
    """The first claim in its stronger form, and the last two with the limit at cost 0, which is the paper's."""
    ranking, classifier = (
        "Dropping the sign term is worse, limit at cost 0",
        "A bare classifier is worse, limit at cost 0",
    )
    return [
        _front_of(harm, helpfulness),
        _worse(ranking, ZERO[1], ZERO[:1], harm, helpfulness),
        _worse(classifier, ZERO[2], ZERO[:1], harm, helpfulness),
    ]


def _beyond(harm: Sequence[Measured], helpfulness: Sequence[Measured]) -> Tree:
    found = compare([(limit, fixed) for limit in LIMITS for fixed in FIXED], harm, helpfulness)
    by_limit = {limit: [c for c in found if c.first == limit] for limit in LIMITS}
    outcome = reaches_beyond({limit: [c.relation for c in mine] for limit, mine in by_limit.items()})
    return {
        "claim": "PPO-Lag reaches a point that no fixed ν dominates",
        "outcome": outcome,
        "reasons": [_against(limit, mine) for limit, mine in by_limit.items()],
        "comparisons": [comparison_tree(c) for c in found],
    }


def _against(limit: str, found: Sequence[Comparison]) -> str:
    """How one limit stands to each fixed ν."""
    kinds: tuple[Relation, ...] = (
        "dominates",
        "trades off against",
        "cannot be told from",
        "is dominated by",
    )
    said = [
        f"{kind} {', '.join(LABELS[c.second] for c in found if c.relation == kind)}"
        for kind in kinds
        if any(c.relation == kind for c in found)
    ]
    return f"{LABELS[limit]} {'; '.join(said)}."


def _mixed(harm: Sequence[Measured], helpfulness: Sequence[Measured]) -> Tree:
    full = contrast({SFT: 1.0, FULL: -1.0}, harm)
    mixed = contrast({SFT: 1.0, MIXED: -1.0}, harm)
    shortfall = contrast({SFT: FAR_LESS - 1, FULL: -FAR_LESS, MIXED: 1.0}, harm)
    (comparison,) = compare([(MIXED, FULL)], harm, helpfulness)
    return {
        "claim": "One mixed label gains far less harmlessness",
        "outcome": gains_far_less(full, shortfall),
        "reasons": [
            f"{LABELS[FULL]} {moves(full)}, {LABELS[MIXED]} {moves(mixed)}. Far less means below half of the "
            f"first: half of it less the second is {points(shortfall)}.",
            f"The helpfulness of {LABELS[MIXED]} is {ahead(comparison.helpfulness)}.",
        ],
        "comparisons": [comparison_tree(comparison)],
    }


def _front_of(harm: Sequence[Measured], helpfulness: Sequence[Measured]) -> Tree:
    found = compare([(fixed, limit) for fixed in FIXED for limit in LIMITS], harm, helpfulness)
    by_fixed = {fixed: [c for c in found if c.first == fixed] for fixed in FIXED}
    relations = {fixed: [c.relation for c in mine] for fixed, mine in by_fixed.items()}
    dominated = [LABELS[fixed] for fixed, mine in relations.items() if "is dominated by" in mine]
    beyond = [LABELS[fixed] for fixed, mine in relations.items() if is_worse(mine) == "not reproduced"]
    return {
        "claim": "No fixed ν reaches the front of PPO-Lag: some limit dominates each",
        "outcome": all_dominated(relations),
        "reasons": [
            f"Dominated by some limit: {', '.join(dominated) or 'none'}. "
            f"Better than each limit in something: {', '.join(beyond) or 'none'}."
        ],
        "comparisons": [comparison_tree(c) for c in found],
    }


def _worse(
    claim: str, variant: str, originals: Sequence[str], harm: Sequence[Measured], helpfulness: Sequence[Measured]
) -> Tree:
    """A variant against PPO-Lag as it is, by the same limit first."""
    same, *others = found = compare([(variant, original) for original in originals], harm, helpfulness)
    reasons = [
        f"{LABELS[variant].capitalize()} {same.relation} {LABELS[same.second]}: its harmful rate is "
        f"{less(same.harm)}, its helpfulness {ahead(same.helpfulness)}."
    ]
    if others:
        dominated = [LABELS[c.second] for c in others if c.relation == "is dominated by"]
        reasons.append(f"Other limits that dominate it: {', '.join(dominated) or 'none'}.")
    return {
        "claim": claim,
        "outcome": is_worse([c.relation for c in found]),
        "reasons": reasons,
        "comparisons": [comparison_tree(c) for c in found],
    }


def _policies(seeds: Sequence[Seed]) -> list[Tree]:
    return [policy | _of_training(seeds, policy["name"]) for policy in policies_of(seeds, LABELS)]


def _of_training(seeds: Sequence[Seed], name: str) -> Tree:
    training = [training_of(seed, name) for seed in seeds]
    return {
        "helpful_elo": [elo_of(seed, name).model_dump() for seed in seeds] if name != SFT else None,
        "training": [found._asdict() for found in training if found],
    }
