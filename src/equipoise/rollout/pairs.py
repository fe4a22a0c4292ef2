"""Stage `data pairs`: stored responses with rewards and costs → preference pairs by r − λc.

A preference method that fits such pairs learns π ∝ π_ref·exp((r − λc)/β); λ is given, found from the same scores
(MoCAN, and PeCAN on log-ratios), or one dual step after earlier pairs (C-DPO, arXiv 2403.02475). No torch.
Left out: the training (`equipoise direct`), and the scores themselves (`respond`, `score`).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from equipoise import artefact, stats
from equipoise.algos.lagrange import LagrangeState, projected_step
from equipoise.algos.offline_dual import Scores, first_wins, solve_lam, tilt
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_responses
from equipoise.data.source import DataSource, input_paths
from equipoise.errors import ArtefactError, DataError
from equipoise.records import PreferencePair, ScoredResponse
from equipoise.rollout.stored_config import FoundLam, GivenLam, PairsConfig, SteppedLam

PAIRS, SUMMARY = "pairs.jsonl", "summary.json"
PLAIN = ("temperature", "top_p", "repetition_penalty")
"""What is 1 where responses are drawn from a policy's own distribution."""
Groups = list[list[ScoredResponse]]


class Multiplier(NamedTuple):
    """λ, and what was learnt on the way to it."""

    lam: float
    facts: dict[str, Any]


def make_pairs(config: PairsConfig) -> Path:
    """Write a directory of kind "preferences": pairs.jsonl, and summary.json with λ and what it rests on.

    Args:
        config: Settings.

    Returns:
        `config.out`.

    Raises:
        DataError: A source cannot be read, scores are missing, or there is nothing to compare; or λ is to be found
            from responses that were not drawn from one policy's own distribution.
        EvaluationError: No finite λ holds the limit.
        ArtefactError: The earlier pairs were not made by this stage, or have not been finished.
    """
    build = artefact.start(config.out, "preferences", config, _inputs(config))
    if build.is_finished:
        return config.out
    responses = [r for source in config.responses for r in load_responses(source, "reward", "cost")]
    groups = by_prompt(responses)
    lam, facts = _multiplier(config, groups)
    pairs, counts = draw_pairs(groups, lam, config)
    if not pairs:
        raise DataError(
            "No prompt has two responses to compare.",
            where=", ".join(source.path for source in config.responses),
            why=f"{len(responses)} responses to {len(groups)} prompts, those cut at the token limit left out",
            fix="Draw several responses per prompt: samples_per_prompt of `equipoise respond`.",
        )
    summary = {"lam": lam, **facts, "responses": len(responses), "prompts": len(groups), **counts}
    write_records(config.out / PAIRS, pairs)
    artefact.write_json(config.out / SUMMARY, summary)
    artefact.finish(build, summary)
    return config.out


def by_prompt(responses: Sequence[ScoredResponse]) -> Groups:
    """The responses of each prompt together, in order of first appearance."""
    groups: dict[str, list[ScoredResponse]] = {}
    for response in responses:
        groups.setdefault(response.prompt.id, []).append(response)
    return list(groups.values())


def scores_of(response: ScoredResponse) -> tuple[float, float]:
    """Reward and cost of a response that was loaded with both."""
    assert response.reward is not None and response.cost is not None
    return response.reward, response.cost


def draw_pairs(groups: Groups, lam: float, config: PairsConfig) -> tuple[list[PreferencePair], dict[str, int]]:
    """Pairs of different, finished responses to one prompt, labelled by s = r − λc.

    A text that was sampled more often stands in more pairs: they are pairs of samples.

    Args:
        groups: Responses with scores, by prompt.
        lam: λ ≥ 0.
        config: How many pairs, how they are labelled, and the seed.

    Returns:
        The pairs, and counts: pairs, ties that `best` leaves out, unfinished responses, prompts without a pair.
    """
    rng = np.random.default_rng(config.seed)
    sides: list[tuple[ScoredResponse, ScoredResponse]] = []
    without = 0
    for group in groups:
        finished = [response for response in group if response.finished]
        possible = [pair for pair in combinations(finished, 2) if pair[0].text != pair[1].text]
        count = min(config.pairs_per_prompt, len(possible))
        sides += [possible[i] for i in sorted(rng.choice(len(possible), count, replace=False))] if count else []
        without += count == 0
    scored = np.array([[scores_of(response) for response in pair] for pair in sides]).reshape(-1, 2, 2)
    first, second = (scored[..., 0] - lam * scored[..., 1]).T
    is_drawn = config.labels == "drawn"
    wins = rng.random(len(first)) < first_wins(first, second) if is_drawn else first > second
    ties = (first == second) & (not is_drawn)
    pairs = [
        PreferencePair(
            prompt=one.prompt,
            responses=(one.text, other.text),
            more_helpful=0 if wins_first else 1,
            source=f"r - {lam:.6g} c",
        )
        for (one, other), wins_first, is_tie in zip(sides, wins, ties, strict=True)
        if not is_tie
    ]
    return pairs, {
        "pairs": len(pairs),
        "ties": int(ties.sum()),
        "unfinished": sum(not r.finished for group in groups for r in group),
        "prompts_without_pairs": without,
    }


def _multiplier(config: PairsConfig, groups: Groups) -> Multiplier:
    match config.lam:
        case FoundLam() as settings:
            _check_reference(config.responses, groups)
            return find_lam(_scores(groups), settings.beta, _limit(settings))
        case GivenLam() as settings:
            return Multiplier(settings.value, {})
        case SteppedLam() as settings:
            return _step_lam(settings)


def find_lam(scores: Scores, beta: float, limit: float) -> Multiplier:
    """λ from the scores of the reference policy's own responses, with what it promises.

    Args:
        scores: The responses'.
        beta: β of the training that follows.
        limit: On the mean cost, counted from cost 0.

    Returns:
        λ, and: the limit; D(λ); reward and cost of the reference; reward, cost, KL and effective number of
        responses under the optimum; an interval of λ. Intervals are over prompts, that of λ by the delta method;
        the limit counts as known. None where λ is 0, or where the cost does not change with it: a range of λ
        does as well, because in each prompt one response has all the weight.

    Raises:
        EvaluationError: No finite λ holds the limit, or there are fewer than two prompts.
    """
    counts = np.diff([*scores.starts, len(scores.rewards)])
    means = {name: np.add.reduceat(getattr(scores, name), scores.starts) / counts for name in ("rewards", "costs")}
    lam = solve_lam(scores, beta, limit)
    optimum = tilt(scores, lam, beta, limit)
    cost = stats.mean(optimum.costs)
    interval = None
    if lam and optimum.slope:
        half = (cost.high - cost.low) / 2 / -optimum.slope
        interval = [max(0.0, lam - half), lam + half]
    facts = {
        "limit": limit,
        "dual": optimum.dual,
        "lam_interval": interval,
        "reference": {"reward": _estimate(means["rewards"]), "cost": _estimate(means["costs"])},
        "optimum": {
            "reward": _estimate(optimum.rewards),
            "cost": cost.model_dump(),
            "kl": _estimate(optimum.kl),
            "effective_responses": _estimate(optimum.effective),
        },
        "responses_per_prompt": float(counts.mean()),
    }
    return Multiplier(lam, facts)


def _limit(settings: FoundLam | SteppedLam) -> float:
    """The limit counted from cost 0; the mean that it counts from is over responses, as that of `ppo-lag`."""
    costs = [r.cost for source in settings.limit_from for r in load_responses(source, "cost")]
    return settings.limit + (float(np.mean(np.array(costs, dtype=float))) if costs else 0.0)


def _estimate(values: stats.Floats) -> dict[str, Any]:
    return stats.mean(values).model_dump()


def _step_lam(settings: SteppedLam) -> Multiplier:
    before = artefact.read_manifest(settings.before, ("preferences",)).facts.get("lam")
    if before is None:
        raise ArtefactError(
            "These preferences do not say which λ they were made with.",
            where=str(settings.before),
            fix="Give a directory that `equipoise data pairs` made.",
        )
    answers = by_prompt([r for source in settings.answers for r in load_responses(source, "cost")])
    cost = stats.mean(np.array([np.mean([r.cost for r in group]) for group in answers], dtype=float))
    limit = _limit(settings)
    moved = projected_step(LagrangeState(before), cost.value - limit, lr=settings.lr, floor=0.0, ceiling=math.inf)
    return Multiplier(moved.lam, {"limit": limit, "lam_before": before, "cost_before": cost.model_dump()})


def _scores(groups: Groups) -> Scores:
    rewards, costs = np.array([scores_of(response) for group in groups for response in group]).T
    return Scores(rewards, costs, np.cumsum([0, *(len(group) for group in groups[:-1])]))


def _check_reference(sources: Sequence[DataSource], groups: Groups) -> None:
    """Refuse responses that are no sample of one policy, as far as records and manifests tell."""
    policies = sorted({response.policy for group in groups for response in group})
    if len(policies) > 1:
        raise DataError(
            f"The responses come from {len(policies)} policies: {', '.join(policies)}.",
            why="λ is found for the policy that all responses were drawn from",
            fix="Give the responses of one policy, the one that training starts from.",
        )
    for source in sources:
        if why := [how for settings in _stages_behind(Path(source.path)) for how in _not_plain(settings)]:
            raise DataError(
                "The responses were not drawn from the policy's own distribution.",
                where=source.path,
                why=", ".join(why)
                + "; λ and preference training both measure the distance from the policy as it is",
                fix="Let `equipoise respond` draw with temperature, top_p and repetition_penalty at 1, "
                "and without best_of.",
            )


def _stages_behind(path: Path) -> Iterator[dict[str, Any]]:
    """Settings of the stage that wrote responses, and of those that wrote what it read, where they still lie."""
    folder = path if path.is_dir() else path.parent
    if (folder / artefact.MANIFEST).exists():
        settings = artefact.read_manifest(folder).config
        yield settings
        for source in settings.get("responses", ()):
            yield from _stages_behind(Path(source["path"]))


def _not_plain(settings: dict[str, Any]) -> list[str]:
    sampling = settings.get("sampling", {})
    changed = [f"{name} was {sampling[name]:g}" for name in PLAIN if sampling.get(name, 1.0) != 1.0]
    return changed + (["each was the best of several"] if settings.get("best_of") else [])


def _inputs(config: PairsConfig) -> dict[str, Path]:
    inputs = input_paths(config.responses, "responses")
    if not isinstance(config.lam, GivenLam):
        inputs |= input_paths(config.lam.limit_from, "limit_from")
    if isinstance(config.lam, SteppedLam):
        inputs |= {"before": config.lam.before, **input_paths(config.lam.answers, "answers")}
    return inputs
