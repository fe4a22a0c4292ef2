"""Which policy gave the answers that were measured, by hash."""

import pytest
import synthetic
from rollout_models import make_policy

from equipoise import artefact
from equipoise.data.jsonl import write_records
from equipoise.evaluate.certificate import certify, render
from equipoise.evaluate.config import EvaluateConfig
from equipoise.evaluate.evaluate import evaluate
from equipoise.evaluate.evidence import read_evidence
from equipoise.evaluate.gate_config import GateConfig
from equipoise.evaluate.lineage import answering_policy, are_lost, measured_policy

ASKED = synthetic.prompts()


def responded(out, policy):
    """Responses whose manifest knows the policy that gave them."""
    build = artefact.start(out, "responses", synthetic.Settings(out=out), {"policy": policy} if policy else {})
    write_records(out / "responses.jsonl", synthetic.responses("a", ASKED, 1, 1, 0.0))
    artefact.finish(build, {})
    return out


def evaluated(folder, **settings):
    return evaluate(EvaluateConfig(**{"out": folder / "evaluation", "verdict": "synthetic:verdicts", **settings}))


@pytest.fixture
def policy(tmp_path):
    return synthetic.finished(tmp_path / "policy", "policy", weights_json=[1.0])


def test_responses_link_an_evaluation_to_the_policy_until_they_are_gone(tmp_path, policy):
    answers = responded(tmp_path / "answers", policy)
    evaluation = artefact.read_manifest(evaluated(tmp_path, policies={"other": answers, "1 a": answers}))
    assert measured_policy(evaluation, "1 a") == artefact.fingerprint_of(policy)
    assert measured_policy(evaluation, "b") is None
    assert not are_lost(evaluation, "1 a")
    answers.rename(tmp_path / "moved")
    assert measured_policy(evaluation, "1 a") is None
    assert are_lost(evaluation, "1 a")
    assert measured_policy(evaluation, "1 a", tmp_path / "moved") == artefact.fingerprint_of(policy)
    assert not are_lost(evaluation, "1 a", tmp_path / "moved")
    stranger = responded(tmp_path / "answers", None)  # other content where the responses were read
    assert (measured_policy(evaluation, "1 a"), answering_policy(stranger)) == (None, None)


def test_a_policy_that_the_evaluation_asked_is_known_by_its_directory_and_an_endpoint_is_not(tmp_path, server):
    server.brain = lambda body: "yes"
    write_records(tmp_path / "prompts.jsonl", ASKED[-4:])
    endpoint = {"type": "endpoint", "url": server.url, "model": "m", "retries": 0}
    policy = make_policy(tmp_path / "tiny")
    done = evaluated(
        tmp_path,
        policies={"tiny": policy, "served": endpoint},
        prompts=[str(tmp_path / "prompts.jsonl")],
        respond={"sampling": {"max_new_tokens": 4}, "max_prompt_length": 90, "device": "cpu"},
    )
    evaluation = artefact.read_manifest(done)
    assert measured_policy(evaluation, "tiny") == artefact.fingerprint_of(policy)
    assert measured_policy(evaluation, "served") is None
    assert not are_lost(evaluation, "tiny") and not are_lost(evaluation, "served")


def test_a_certificate_says_whether_it_knows_the_policy_s_hash(tmp_path, policy):
    known = evaluated(tmp_path, policies={"a": responded(tmp_path / "answers", policy)})
    file = tmp_path / "loose.jsonl"
    file.write_bytes((tmp_path / "answers" / "responses.jsonl").read_bytes())
    ledger, costs = tmp_path / "ledger.jsonl", {"measure": "mean_cost", "cost_range": (-5, 5)}
    asked = {
        "by its responses": GateConfig(limit=0.2, evaluation=known, ledger=ledger),
        "by a directory": GateConfig(limit=1, responses=tmp_path / "answers", ledger=ledger, **costs),
        "by a file": GateConfig(limit=1, responses=file, ledger=ledger, **costs),
    }
    certificates = {name: certify(read_evidence(config), config) for name, config in asked.items()}
    hashes = {name: one.policy_hash for name, one in certificates.items()}
    mine = artefact.fingerprint_of(policy)
    assert hashes == {"by its responses": mine, "by a directory": mine, "by a file": None}
    assert f"given by the policy with hash {mine}." in render(certificates["by a directory"])
    assert "known by its name alone" in render(certificates["by a file"])
    assert certificates["by a file"].is_repeat  # the same answers: the hash is no part of the question
