"""The `evaluate` stage: several policies' answers to the same prompts → rates, tests, Elo, samples.

With finished responses and a judge that is a function it needs no torch. Writes summary.json (documented in
docs/evaluation.md), verdicts.jsonl, comparisons.jsonl and samples.jsonl.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from equipoise.artefact import finish, start
from equipoise.config import resolve_function
from equipoise.data.jsonl import write_records
from equipoise.data.source import input_paths
from equipoise.errors import EvaluationError
from equipoise.evaluate.answers import (
    Collected,
    check_policies,
    collect,
    common_prompts,
    gather_prompts,
    refuse_trained_on,
)
from equipoise.evaluate.compare import Answers, Arena, Judged, arenas, digest, play, strengths, tallies
from equipoise.evaluate.config import JUDGE, PEOPLE, CostVerdict, EvaluateConfig
from equipoise.evaluate.harm import HARMLESS, PolicySummary, ScoredAnswer, summarise
from equipoise.evaluate.judge_model import open_judge
from equipoise.evaluate.judges import (
    RefusalFunction,
    VerdictFunction,
    VotesFunction,
    answered,
    verdict_function,
    verdict_source,
)
from equipoise.evaluate.known.run import evaluate_known
from equipoise.evaluate.paired import paired_tests
from equipoise.evaluate.people import Heard, check_by_people, hear_people
from equipoise.evaluate.summary import Evaluation, PeopleUsed, Read, policy_front, write_evaluation
from equipoise.records import REFUSALS, Prompt, Record, Refusal, Response, ScoredResponse, Verdict
from equipoise.rollout.config import GuardScore, ModelScore
from equipoise.stats import Estimate, mean

UNSCORED = Verdict(is_safe=None)
FIX_VERDICT = "Return one Verdict per response, in order; is_safe=None for what cannot be judged."
FIX_REFUSAL = "Return 'none', 'partial' or 'full' per response, in order; None for what cannot be judged."


class SampleAnswer(Record):
    """One policy's answer, as the report shows it."""

    policy: str
    text: str
    is_safe: bool | None
    refusal: Refusal | None


class Sample(Record):
    """One prompt with every policy's answer: a line of samples.jsonl."""

    prompt: Prompt
    answers: tuple[SampleAnswer, ...]


class _Judges(NamedTuple):
    """Functions that settings name; None: the judge model or people, or for votes nobody."""

    verdict: VerdictFunction | None
    refusal: RefusalFunction | None
    votes: VotesFunction | None


class _Judged(NamedTuple):
    """All that was said of the answers."""

    scored: dict[str, dict[str, ScoredAnswer]]
    heard: Heard | None
    pairs: list[Judged]
    fights: list[Arena]
    read: dict[str, Read]


def evaluate(config: EvaluateConfig) -> Path | None:
    """Have prompts answered where they are not yet, judge, count and compare; or count files of judgements.

    Returns:
        The directory, of kind "evaluation"; or the file that the numbers were written to, if any.

    Raises:
        EvaluationError: The policies answered different prompts, a prompt twice or one that they were trained on,
            or nothing could be scored.
        ConfigError: A judge is no function.
        ArtefactError: An input is unfinished or neither responses nor a policy, or `out` holds another run.
        EndpointError: A policy's or the judge's endpoint leaves something without an answer; the same command goes
            on from there.
    """
    if config.labels or config.comparisons:
        return evaluate_known(config)
    out = config.out
    assert out is not None  # the settings' own check
    functions = _functions(config)
    check_policies(config)
    gathered = gather_prompts(config.prompts, config.unknown_kind)
    refuse_trained_on(gathered.prompts, config.trained_on)
    build = start(out, "evaluation", config.identity, _inputs(config))
    if build.is_finished:
        return out
    collected = collect(config, out, gathered.prompts)
    prompts = common_prompts(collected.answers)
    asked = {prompt.id for prompt in gathered.prompts}  # these were looked up before anybody was asked
    refuse_trained_on([prompt for prompt in prompts if prompt.id not in asked], config.trained_on)
    judged = _judge(config, out, collected, prompts, functions)
    summaries = _summaries(config, collected.answers, judged)
    scored = judged.scored
    write_records(out / "verdicts.jsonl", [line for mine in scored.values() for line in mine.values()])
    write_records(out / "comparisons.jsonl", judged.pairs)
    write_records(out / "samples.jsonl", _samples(prompts, collected.answers, scored, config))
    write_evaluation(out, _evaluation(summaries, judged, prompts, gathered.repeated, config))
    finish(build, {"policies": len(summaries), "prompts": len(prompts), "comparisons": len(judged.pairs)})
    return out


def _functions(config: EvaluateConfig) -> _Judges:
    own = (JUDGE, PEOPLE)
    return _Judges(
        verdict=None if config.verdict is None or config.verdict in own else verdict_function(config.verdict),
        refusal=None if config.refusal == JUDGE else resolve_function(config.refusal),
        votes=resolve_function(config.votes) if config.votes and config.votes != JUDGE else None,
    )


def _inputs(config: EvaluateConfig) -> dict[str, Path]:
    """The policies, numbered because their order matters, what they are asked, and the models that judge them."""
    policies = enumerate(config.policies.items(), start=1)
    inputs = {f"{i} {name}": given for i, (name, given) in policies if isinstance(given, Path)}
    scores = {"verdict": config.verdict.cost if isinstance(config.verdict, CostVerdict) else None}
    if config.prompts:
        scores |= {"reward": config.respond.reward, "cost": config.respond.cost}
    inputs |= {name: s.path for name, s in scores.items() if isinstance(s, ModelScore | GuardScore)}
    inputs |= input_paths(config.trained_on, "trained-on")
    inputs |= input_paths(config.prompts, "prompts")
    people = config.people
    inputs |= {f"people-file-{i}": path for i, path in enumerate(people.files if people else ())}
    return inputs | input_paths(people.labels if people else (), "people")


def _judge(
    config: EvaluateConfig, out: Path, collected: Collected, prompts: Sequence[Prompt], functions: _Judges
) -> _Judged:
    """Ask everybody about all answers that there are."""
    answers, missing = collected
    present = {
        name: [r for r in mine.values() if r.prompt.id not in missing[name]] for name, mine in answers.items()
    }
    by_prompt = {name: {r.prompt.id: r for r in mine} for name, mine in present.items()}
    heard = hear_people(config.people, by_prompt) if config.people else None
    with open_judge(config, out, [r for mine in present.values() for r in mine]) as judge:
        verdict = functions.verdict or (judge.verdicts if judge and config.verdict == JUDGE else None)
        refusal = functions.refusal or (judge.refusals if judge else None)
        votes = functions.votes or (judge.votes if judge and config.votes == JUDGE else None)
        assert refusal is not None
        scored = {}
        for name, mine in present.items():
            if verdict is None:
                assert heard is not None
                verdicts: Sequence[Verdict] = [heard.verdicts[name].get(r.prompt.id, UNSCORED) for r in mine]
            else:
                verdicts = verdict(mine)
            scored[name] = _score(name, answers[name], missing[name], verdicts, refusal(mine))
        fights = arenas(prompts, config.elo_prompts, config.seed) if votes and len(answers) > 1 else []
        pairs = play(answers, fights, votes, config.seed, missing) if votes else []
        return _Judged(scored, heard, pairs, fights, judge.counts() if judge else {})


def _score(
    name: str,
    answers: Mapping[str, Response],
    missing: Mapping[str, str],
    verdicts: Sequence[Verdict],
    refusals: Sequence[Refusal | None],
) -> dict[str, ScoredAnswer]:
    """Prompt id → both verdicts on one policy's answers; those that are missing have none."""
    present = [key for key in answers if key not in missing]
    answered(verdicts, len(present), f"verdict on {name}", lambda v: isinstance(v, Verdict), FIX_VERDICT)
    answered(refusals, len(present), f"refusal of {name}", lambda r: r in (None, *REFUSALS), FIX_REFUSAL)
    said = dict(zip(present, zip(verdicts, refusals, strict=True), strict=True))
    scored = {}
    for key, r in answers.items():
        assert r.prompt.kind is not None  # such prompts are refused where they are read
        verdict, refusal = said.get(key, (UNSCORED, None))
        scored[key] = ScoredAnswer(
            policy=name,
            prompt=key,
            kind=r.prompt.kind,
            category=r.prompt.category,
            attack=r.prompt.attack,
            is_safe=verdict.is_safe,
            categories=verdict.categories,
            refusal=refusal,
            finished=r.finished,
            source=r.prompt.source,
            is_empty=key not in missing and not r.text.strip(),
            missing=missing.get(key, ""),
        )
    return scored


def _summaries(config: EvaluateConfig, answers: Answers, judged: _Judged) -> list[PolicySummary]:
    elos = strengths(judged.pairs, judged.fights, list(judged.scored))
    checks = config.people if config.people and config.verdict != PEOPLE else None
    summaries = []
    for name, scored in judged.scored.items():
        lines = list(scored.values())
        found = summarise(name, lines, {arena: table[name] for arena, table in elos.items()})
        more: dict[str, Any] = {"mean_reward": _mean_reward(name, answers[name])}
        if checks and judged.heard:
            heard = judged.heard.verdicts[name]
            more["people"] = check_by_people(lines, heard, are_a_random_sample=checks.are_a_random_sample)
        summaries.append(found.model_copy(update=more))
    return summaries


def _mean_reward(name: str, answers: Mapping[str, Response]) -> Estimate | None:
    """Over harmless requests and look-alikes; None where an answer carries no reward.

    Raises:
        EvaluationError: A reward is no finite number.
    """
    mine = [r for r in answers.values() if r.prompt.kind in HARMLESS]
    rewards = [r.reward for r in mine if isinstance(r, ScoredResponse) and r.reward is not None]
    if len(rewards) < max(2, len(mine)):
        return None
    wrong = next((r for r, reward in zip(mine, rewards, strict=True) if not math.isfinite(reward)), None)
    if wrong is not None:
        raise EvaluationError(
            "The reward of an answer is no finite number.", where=f"{name}: {wrong.prompt.text[:80]!r}"
        )
    return mean(np.array(rewards))


def _samples(
    prompts: Sequence[Prompt],
    answers: Answers,
    scored: Mapping[str, Mapping[str, ScoredAnswer]],
    config: EvaluateConfig,
) -> list[Sample]:
    """Prompts chosen by hash, one of each kind, category and attack in turn."""
    groups: dict[tuple[str, ...], list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: digest("sample", config.seed, p.id)):
        groups.setdefault((prompt.kind or "", prompt.category or "", str(bool(prompt.attack))), []).append(prompt)
    ranked = [(rank, i, prompt) for i, group in enumerate(groups.values()) for rank, prompt in enumerate(group)]
    chosen = [prompt for _, _, prompt in sorted(ranked, key=lambda entry: entry[:2])[: config.sample_prompts]]
    return [
        Sample(prompt=prompt, answers=tuple(_shown(name, answers, scored, prompt) for name in answers))
        for prompt in chosen
    ]


def _shown(
    name: str, answers: Answers, scored: Mapping[str, Mapping[str, ScoredAnswer]], prompt: Prompt
) -> SampleAnswer:
    line = scored[name][prompt.id]
    return SampleAnswer(
        policy=name, text=answers[name][prompt.id].text, is_safe=line.is_safe, refusal=line.refusal
    )


def _evaluation(
    summaries: Sequence[PolicySummary],
    judged: _Judged,
    prompts: Sequence[Prompt],
    repeated: int,
    config: EvaluateConfig,
) -> Evaluation:
    kinds = [prompt.kind or "" for prompt in prompts]
    people = (
        PeopleUsed(are_a_random_sample=config.people.are_a_random_sample, unmatched=judged.heard.unmatched)
        if config.people and judged.heard
        else None
    )
    return Evaluation(
        policies=tuple(summaries),
        comparisons=tuple(tallies(judged.pairs)),
        prompts={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        verdict=verdict_source(config),
        refusal=config.refusal,
        judge=judged.read,
        people=people,
        tests=tuple(paired_tests(judged.scored)),
        front=policy_front(summaries),
        repeated_prompts=repeated,
    )
