"""Policies that are asked on the spot: behind an endpoint on loopback, or a tiny model's directory."""

import json
from pathlib import Path

import pytest
import synthetic
from pydantic import ValidationError
from rollout_models import make_policy
from scripted_judge import busy, completion
from starlette.responses import JSONResponse

from equipoise.artefact import read_manifest
from equipoise.data.jsonl import write_records
from equipoise.errors import ArtefactError, ConfigError, EndpointError, EvaluationError
from equipoise.evaluate.config import EvaluateConfig
from equipoise.evaluate.evaluate import evaluate
from equipoise.records import Prompt


@pytest.fixture
def server(server):
    server.brain = says_harm_to_even_numbers
    return server


def number_of(body) -> int:
    return int(body["messages"][-1]["content"].split()[2].rstrip(":"))


def says_harm_to_even_numbers(body) -> str:
    return "HARM, of course" if number_of(body) % 2 == 0 else "i can't help with that"


def prompts(folder: Path, count: int = 12, harmful: int = 8) -> str:
    path = folder / "prompts.jsonl"
    asked = [
        Prompt.from_text(f"request number {i}: what now ?", kind="harmful" if i < harmful else "harmless")
        for i in range(count)
    ]
    write_records(path, asked)
    return str(path)


def run(folder, server, policy=None, **settings):
    endpoint = {"type": "endpoint", "url": server.url, "model": "m", "retries": 0, **(policy or {})}
    defaults = {
        "out": folder / "evaluation",
        "policies": {"served": endpoint},
        "prompts": [prompts(folder)],
        "verdict": "synthetic:verdicts",
    }
    return evaluate(EvaluateConfig(**(defaults | settings)))


def summary(path):
    return json.loads((path / "summary.json").read_text())


def test_an_endpoint_answers_every_prompt_as_it_is_to_be_sampled(tmp_path, server):
    sampling = {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 77}
    done = summary(run(tmp_path, server, {"options": {"seed": 3}}, respond={"sampling": sampling}))
    (served,) = done["policies"]
    assert (served["harmful_rate"]["value"], served["harmful_rate"]["n"]) == (0.5, 8)
    assert served["full_refusal_rate"]["value"] == 0.5  # two of the four harmless ones
    assert len(server.bodies) == 12
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (0.5, 0.9, 77, 3)
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_the_token_is_sent_and_kept_nowhere(tmp_path, server, monkeypatch):
    monkeypatch.setenv("POLICY_KEY", "s3cret-token")
    out = run(tmp_path, server, {"token_variable": "POLICY_KEY"})
    assert {headers["authorization"] for headers in server.headers} == {"Bearer s3cret-token"}
    assert not any(b"s3cret-token" in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_run_that_failed_goes_on_and_asks_nothing_twice(tmp_path, server):
    server.fault = lambda body, time: busy(500, "0") if number_of(body) in (3, 9) else None
    with pytest.raises(EndpointError, match="got no answer"):
        run(tmp_path, server, {"concurrency": 1})
    first = len(server.bodies)
    server.fault = lambda body, time: None
    done = run(tmp_path, server, {"concurrency": 4, "timeout": 9})  # how patiently is no other run
    assert summary(done)["policies"][0]["counts"]["unanswered"] == 0
    assert max(server.served.values()) == 1
    assert len(server.bodies) - first == 12 - 3  # 0, 1 and 2 were answered before number 3 failed


def test_prompts_that_stay_without_answer_are_counted_and_not_judged(tmp_path, server):
    def fault(body, time):
        if number_of(body) == 0:
            return JSONResponse({"error": {"message": "content_filter"}}, status_code=400)
        if number_of(body) == 2:
            return completion("", finish="content_filter")
        return busy(500, "0") if number_of(body) == 4 else None

    server.fault = fault
    endpoint = {"type": "endpoint", "url": server.url, "model": "m", "retries": 0, "max_failures": 1}
    other = {**endpoint, "model": "n"}
    out = run(tmp_path, server, policies={"a": endpoint, "b": other}, votes="synthetic:votes")
    served = summary(out)["policies"][0]
    assert served["counts"]["unanswered"] == 3
    assert served["counts"]["unscored_verdicts"] == 3
    assert (served["harmful_rate"]["value"], served["harmful_rate"]["n"]) == (1 / 5, 5)  # of 1, 3, 5, 6, 7
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    reasons = [line["missing"] for line in lines if line["policy"] == "a" and "missing" in line]
    assert len(reasons) == 3
    assert [any(word in reason for reason in reasons) for word in ("status 400", "blocked", "500")] == [True] * 3
    # a pair with a missing answer is no tie
    tallies = {t["arena"]: t for t in summary(out)["comparisons"]}
    assert (tallies["harmless_elo"]["unscored"], tallies["harmless_elo"]["ties"]) == (3, 5)


def test_a_label_of_an_answer_that_never_came_is_of_no_answer(tmp_path, server):
    server.fault = lambda body, time: busy(500, "0") if number_of(body) == 0 else None
    rows = [{"prompt": f"request number {i}: what now ?", "policy": "served", "is_safe": i != 0} for i in range(3)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = {"files": [str(tmp_path / "labels.jsonl")]}
    done = summary(run(tmp_path, server, {"max_failures": 1}, people=people))
    found = done["policies"][0]["people"]
    assert (found["labelled"], found["rate"]["value"], found["calibrated"]) == (2, 0.0, None)
    assert done["people"]["unmatched"] == 1


def test_an_empty_answer_is_an_answer_and_counted(tmp_path, server):
    server.brain = lambda body: "" if number_of(body) == 1 else "HARM"
    served = summary(run(tmp_path, server))["policies"][0]
    assert (served["counts"]["empty"], served["counts"]["unanswered"]) == (1, 0)
    assert served["harmful_rate"]["n"] == 8


def test_an_endpoint_that_rejects_everything_is_an_error(tmp_path, server):
    server.fault = lambda body, time: JSONResponse({"error": {"message": "no temperature"}}, status_code=400)
    with pytest.raises(EvaluationError, match=r"(?s)answered none of 12 prompts.*no temperature"):
        run(tmp_path, server)


def test_a_directory_of_responses_and_an_endpoint_are_compared_on_the_same_prompts(tmp_path, server):
    first = run(tmp_path, server)
    endpoint = {"type": "endpoint", "url": server.url, "model": "other"}
    policies = {"old": first / "answers" / "served", "new": endpoint}
    done = summary(run(tmp_path, server, policies=policies, out=tmp_path / "second"))
    assert [test["p"] for test in done["tests"]] == [1.0, 1.0]
    (tmp_path / "more").mkdir()
    path = prompts(tmp_path / "more", count=13)
    with pytest.raises(EvaluationError, match="different prompts"):
        run(tmp_path, server, policies=policies, out=tmp_path / "third", prompts=[path])


def test_prompt_sets_say_what_their_prompts_are(tmp_path, server):
    plain, wrapped = tmp_path / "plain.jsonl", tmp_path / "wrapped.jsonl"
    write_records(plain, [Prompt.from_text(f"request number {i}: a ?") for i in range(4)])
    write_records(wrapped, [Prompt.from_text(f"request number {i}: b ?", category="own") for i in range(3)])
    sets = [
        {"path": str(plain), "request_kind": "harmful", "category": "theft"},
        {"path": str(wrapped), "request_kind": "harmful", "category": "theft", "attack": "story"},
    ]
    done = summary(run(tmp_path, server, prompts=sets))
    served = done["policies"][0]
    assert {name: rate["n"] for name, rate in served["per_category"].items()} == {"theft": 4, "own": 3}
    assert {name: rate["value"] for name, rate in served["per_attack"].items()} == {"plain": 0.5, "wrapped": 2 / 3}
    assert served["by_attack"]["story"]["n"] == 3


def test_a_prompt_in_two_sets_is_asked_once_and_counted(tmp_path, server):
    again = tmp_path / "again.jsonl"
    write_records(again, [Prompt.from_text("request number 0: what now ?", kind="harmful")])
    done = summary(run(tmp_path, server, prompts=[prompts(tmp_path), str(again)]))
    assert (done["repeated_prompts"], done["prompts"]) == (1, {"harmful": 8, "harmless": 4})
    write_records(again, [Prompt.from_text("request number 0: what now ?", kind="harmless")])
    with pytest.raises(EvaluationError, match="say different things of the same prompt: its kind"):
        run(tmp_path, server, prompts=[prompts(tmp_path), str(again)], out=tmp_path / "other")


def test_wrong_policies_are_found_before_anything_is_asked(tmp_path, server):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ArtefactError, match="neither responses nor a policy"):
        run(tmp_path, server, policies={"a": tmp_path / "nothing"})
    with pytest.raises(ArtefactError, match="holds a reward"):
        run(tmp_path, server, policies={"a": synthetic.finished(tmp_path / "reward", "reward")})
    with pytest.raises(ConfigError, match="cannot be asked under that name"):
        run(tmp_path, server, policies={"a/b": {"type": "endpoint", "url": server.url, "model": "m"}})
    with pytest.raises(ValidationError, match="needs `prompts`"):
        run(tmp_path, server, prompts=[])
    with pytest.raises(ValidationError, match="no repetition_penalty"):
        run(tmp_path, server, respond={"sampling": {"repetition_penalty": 1.2}})
    with pytest.raises(EvaluationError, match="were trained on"):
        run(tmp_path, server, trained_on=[prompts(tmp_path)])
    assert server.bodies == []


def test_settings_that_no_endpoint_takes_are_refused_where_they_are_read():
    endpoint = {"type": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}
    given = {"out": "o", "policies": {"a": endpoint}, "prompts": ["p"], "verdict": "synthetic:verdicts"}
    hot = {"sampling": {"temperature": 2.5}}
    assert EvaluateConfig(**{**given, "policies": {"a": {**endpoint, "temperature": 1}}}, respond=hot)
    with pytest.raises(ValidationError, match="options may not hold response_format"):
        EvaluateConfig(**{**given, "policies": {"a": {**endpoint, "options": {"response_format": {}}}}})
    with pytest.raises(ValidationError, match="temperature is at most 2"):
        EvaluateConfig(**given, respond=hot)


def test_a_model_s_directory_is_asked_once_and_its_answers_kept(tmp_path, server):
    policy = make_policy(tmp_path / "tiny")
    settings = {
        "policies": {"tiny": policy, "served": {"type": "endpoint", "url": server.url, "model": "m"}},
        "respond": {"sampling": {"max_new_tokens": 4}, "max_prompt_length": 90, "device": "cpu"},
    }
    server.fault = lambda body, time: busy(500, "0")
    with pytest.raises(EndpointError):
        run(tmp_path, server, **settings)
    kept = tmp_path / "evaluation" / "answers" / "tiny"
    before = read_manifest(kept), (kept / "manifest.json").stat().st_mtime_ns
    server.fault = lambda body, time: None
    done = run(tmp_path, server, **settings)
    assert (read_manifest(kept), (kept / "manifest.json").stat().st_mtime_ns) == before
    assert [policy["counts"]["responses"] for policy in summary(done)["policies"]] == [12, 12]
