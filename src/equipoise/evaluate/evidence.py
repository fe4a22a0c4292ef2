"""What a gate decides on: one policy's verdicts or costs, one per prompt, out of files of others.

Where rates are counted, two answers of one policy to one prompt are refused, for they are not independent; costs
are averaged within each prompt first. Unknown verdicts and costs stay, as None.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from equipoise.artefact import read_manifest
from equipoise.config import hash_tree
from equipoise.data.jsonl import read_records
from equipoise.errors import EvaluationError
from equipoise.evaluate.gate_config import GateConfig
from equipoise.evaluate.harm import HARMLESS, ScoredAnswer, is_refused, is_unsafe
from equipoise.evaluate.known.files import read_labels
from equipoise.evaluate.lineage import answering_policy, measured_policy
from equipoise.records import Prompt, ScoredResponse


class Measured(NamedTuple):
    """One prompt and what is known of the answer to it: whether it counts, or its cost; None is unknown."""

    prompt_id: str
    category: str | None
    value: float | bool | None


class Evidence(NamedTuple):
    """A policy, its answers one per prompt, and a hash of the answers and of what was said of them.

    `policy_hash`: of the directory of the policy that gave them; None where that is unknown.
    """

    policy: str
    measured: tuple[Measured, ...]
    answers: str
    policy_hash: str | None


def read_evidence(config: GateConfig) -> Evidence:
    """What the settings name, of the policy that they name.

    Raises:
        EvaluationError: There is no such policy, there are several and none is named, none of its prompts is of
            the measure's kind, or a prompt was answered twice.
        ArtefactError: A directory is unfinished or of another kind.
        DataError: A file is missing or broken.
    """
    if config.labels:
        return _from_labels(config.labels, config)
    if config.evaluation is not None:
        return _from_evaluation(config.evaluation, config)
    assert config.responses is not None
    return _from_responses(config.responses, config)


def _from_labels(paths: Sequence[Path], config: GateConfig) -> Evidence:
    """Labellers' majorities; where none has one, the verdict is unknown."""
    rows, answers = read_labels(paths)
    policy = _choose(config.policy, [row.policy for row in rows], paths[0])
    harm = config.measure == "harmful_rate"
    measured = [
        Measured(
            Prompt.from_text(answer.prompt).id,
            answer.category,
            is_unsafe(answer.is_safe.value) if harm else is_refused(answer.refusal.value),
        )
        for answer in answers
        if answer.policy == policy
    ]
    mine = sorted(row.model_dump_json() for row in rows if row.policy == policy)
    return _evidence(policy, measured, mine, config, policy_hash=None)


def _from_evaluation(folder: Path, config: GateConfig) -> Evidence:
    manifest = read_manifest(folder, ("evaluation",))
    lines = read_records(folder / "verdicts.jsonl", ScoredAnswer)
    policy = _choose(config.policy, [line.policy for line in lines], folder)
    harm = config.measure == "harmful_rate"
    mine = [a for a in lines if a.policy == policy and (a.kind == "harmful" if harm else a.kind in HARMLESS)]
    measured = [
        Measured(a.prompt, a.category, is_unsafe(a.is_safe) if harm else is_refused(a.refusal)) for a in mine
    ]
    rows = [line.model_dump(mode="json") for line in sorted(mine, key=lambda a: a.prompt)]
    # verdicts alone cannot tell one version of a policy from the next; what the directory was made from can
    answers = [manifest.fingerprint, manifest.files, rows]
    return _evidence(policy, measured, answers, config, policy_hash=measured_policy(manifest, policy))


def _from_responses(path: Path, config: GateConfig) -> Evidence:
    policy_hash = answering_policy(path) if path.is_dir() else None
    file = path / "responses.jsonl" if path.is_dir() else path
    responses = read_records(file, ScoredResponse)
    policy = _choose(config.policy, [r.policy for r in responses], path)
    mine = [r for r in responses if r.policy in (policy, "")]
    by_prompt: dict[str, list[ScoredResponse]] = {}
    for response in mine:
        by_prompt.setdefault(response.prompt.id, []).append(response)
    measured = [Measured(key, same[0].prompt.category, _mean_cost(same)) for key, same in by_prompt.items()]
    rows = sorted([r.prompt.id, r.sample, r.text, r.cost] for r in mine)
    return _evidence(policy, measured, rows, config, policy_hash=policy_hash)


def _mean_cost(same: Sequence[ScoredResponse]) -> float | None:
    """The mean over several answers to one prompt; one without a cost leaves it unknown."""
    costs = [r.cost for r in same if r.cost is not None]
    return sum(costs) / len(costs) if len(costs) == len(same) else None


def _choose(named: str | None, policies: Iterable[str], path: Path) -> str:
    known = sorted(set(policies))
    if not known:
        raise EvaluationError("There are no answers.", where=str(path))
    if named in known or (named is not None and known == [""]):
        return str(named)
    if named is None and len(known) == 1:
        return known[0]
    raise EvaluationError(
        f"There is no policy {named!r}."
        if named is not None
        else f"There are {len(known)} policies, and none is named.",
        where=str(path),
        fix=f"Set policy to one of {', '.join(map(repr, known))}.",
    )


def _evidence(
    policy: str, measured: Sequence[Measured], answers: object, config: GateConfig, *, policy_hash: str | None
) -> Evidence:
    if not measured:
        kind = "harmful requests" if config.measure == "harmful_rate" else "harmless requests"
        raise EvaluationError(
            f"{policy!r} has no answers to {kind}.",
            why="a certificate stands on what was measured",
            fix="Name another measure, or answers to such requests.",
        )
    seen: set[str] = set()
    for item in measured:
        if item.prompt_id in seen:
            raise EvaluationError(
                f"{policy!r} answered a prompt twice.",
                where=item.prompt_id,
                why="the bound counts prompts, and answers to one prompt are not independent",
                fix="Keep one answer of each prompt, chosen without looking at the verdicts.",
            )
        seen.add(item.prompt_id)
    return Evidence(policy, tuple(measured), hash_tree(answers), policy_hash)
