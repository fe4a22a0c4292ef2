"""What may ship: a finished policy, an evaluation of this very policy, a gate that passed, a folder that loads.

All by hash, for names and paths prove nothing; where a certificate knows its policy by name only, the card says
so. Left out: the card (`card`) and the files (`ship`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from equipoise.artefact import Manifest, fingerprint_of
from equipoise.errors import ArtefactError, EvaluationError, ModelError
from equipoise.evaluate.certificate import Certificate
from equipoise.evaluate.evidence import read_evidence
from equipoise.evaluate.gate_config import GateConfig
from equipoise.evaluate.lineage import are_lost, measured_policy
from equipoise.records import Record
from equipoise.report.history import certificate
from equipoise.ship import load_test
from equipoise.ship.config import ShipConfig


class Trial(Record):
    """What came of loading the folder in a fresh process and asking it once."""

    transformers: str
    torch: str
    model: str
    parameters: int
    dtype: str
    prompt: str
    answer: str
    tokens: int
    ended: bool
    seconds: float
    without_this_package: bool


class Gate(NamedTuple):
    """A certificate, and whether it rests on the very answers of the evaluation; None: that cannot be told."""

    certificate: Certificate
    same_answers: bool | None


def name_in_evaluation(config: ShipConfig, evaluation: Manifest) -> str:
    """Under which name the evaluation measured this policy: by hash, its answers or itself are among the inputs.

    Raises:
        ArtefactError: It did not measure it, or the responses that link the two are gone.
    """
    policy = fingerprint_of(config.policy)
    names: Mapping[str, object] = evaluation.config["policies"]
    for name in names:
        if measured_policy(evaluation, name, config.responses) == policy:
            return name
    gone = [f"{name} ({given})" for name, given in names.items() if are_lost(evaluation, name, config.responses)]
    raise ArtefactError(
        "The evaluation did not measure this policy.",
        where=f"{config.policy} ({policy}) in {config.evaluation}",
        why=f"the responses of {', '.join(gone)} are not where they were read, so who gave them is unknown"
        if gone
        else "none of its responses were given by these weights",
        fix="Evaluate this policy, or name the directory of its responses in `responses`.",
    )


def read_gate(config: ShipConfig, policy: str) -> Gate | None:
    """The certificate, if it lets this policy ship; None where none is given.

    Raises:
        EvaluationError: It is of another policy, by name or by hash; or it did not pass and `allow_failed_gate` is
            not set.
        DataError: It is no certificate.
    """
    if config.gate is None:
        return None
    found = certificate(config.gate)
    if found.policy != policy:
        raise EvaluationError(
            f"The certificate is of {found.policy!r}, but what ships is {policy!r}.", where=str(config.gate)
        )
    shipped = fingerprint_of(config.policy)
    if found.policy_hash not in (None, shipped):
        raise EvaluationError(
            f"The certificate is of another policy called {policy!r}.",
            where=f"{config.gate}: {found.policy_hash}, {config.policy}: {shipped}",
            why="their files differ, by hash",
            fix="Run the gate on answers of the policy that ships.",
        )
    if found.verdict != "pass" and not config.allow_failed_gate:
        raise EvaluationError(
            f"The gate did not pass: {found.verdict}.",
            where=str(config.gate),
            why=found.sentence,
            fix="Ship another policy, or set allow_failed_gate; the card then says on top that it did not pass.",
        )
    return Gate(found, _has_same_answers(found, config.evaluation, policy))


def try_folder(folder: Path, config: ShipConfig) -> Trial:
    """Load the folder in a fresh process with plain transformers, offline, and let it answer once.

    Raises:
        ModelError: It does not load, its logits are not finite, it says nothing, or it takes too long.
    """
    code = Path(load_test.__file__)
    command = [sys.executable, "-I", str(code), str(folder.resolve()), config.prompt, str(config.max_new_tokens)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=config.timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"The shipped folder did not answer within {config.timeout:g} seconds.",
            where=str(folder),
            fix="Raise timeout, or lower max_new_tokens.",
        ) from error
    if done.returncode != 0:
        raise ModelError(
            "The shipped folder does not load and generate by plain transformers.",
            where=str(folder),
            why=(done.stderr.strip().splitlines() or ["no message"])[-1],
        )
    trial = Trial.model_validate(json.loads(done.stdout.strip().splitlines()[-1]))
    if trial.tokens == 0:
        raise ModelError("The shipped folder generates nothing.", where=str(folder), why=f"asked {trial.prompt!r}")
    return trial


def facts_of(gate: Gate | None, trial: Trial) -> Mapping[str, object]:
    """What the manifest keeps of both."""
    verdict = gate.certificate.verdict if gate else None
    return {"gate": verdict, "load_test": trial.model_dump(mode="json")}


def _has_same_answers(found: Certificate, evaluation: Path, policy: str) -> bool | None:
    if found.measure == "mean_cost":  # of responses: an evaluation keeps no costs
        return None
    asked = GateConfig(
        limit=found.limit,
        measure=found.measure,
        confidence=found.confidence,
        evaluation=evaluation,
        policy=policy,
    )
    return read_evidence(asked).answers == found.answers_hash
