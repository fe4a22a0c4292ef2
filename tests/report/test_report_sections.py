"""Sections that few evaluations have: people's check, a judge that could not be read, rewards for helpfulness."""

import json
import shutil

import synthetic
from test_report import check, manifest, policy

from equipoise.evaluate.config import EvaluateConfig
from equipoise.evaluate.evaluate import evaluate
from equipoise.evaluate.summary import Evaluation, Read, policy_front
from equipoise.report import plots
from equipoise.report.config import ReportConfig, ReportRound
from equipoise.report.figures import harm_against_help, training
from equipoise.report.limits import limits
from equipoise.report.report import render
from equipoise.stats import Estimate


def test_answers_of_a_judge_that_could_not_be_read_are_a_limit():
    evaluation = Evaluation(
        policies=(policy("a", 1),),
        comparisons=(),
        prompts={"harmful": 100},
        judge={
            "safety": Read(asked=100, unscored={"unparsed": 3, "refused": 0}),
            "refusal": Read(asked=9, unscored={}),
        },
    )
    said = [text for text in limits(evaluation, [("evaluation", manifest("evaluation"))]) if "be read" in text]
    assert said == ["Answers of the judge model on safety that could not be read: unparsed 3."]


def test_front_of_rewards_says_that_nobody_compared():
    rewards = {"a": Estimate(value=0.0, low=-0.1, high=0.1, n=9), "b": Estimate(value=1.0, low=0.9, high=1.1, n=9)}
    harm = {"a": 60, "b": 5}
    policies = [policy(name, harm[name]).model_copy(update={"mean_reward": rewards[name]}) for name in harm]
    front = harm_against_help(policy_front(policies), {"a": "a", "b": "b"})
    assert front is not None and front.is_reward and front.dominated == (("a", ("b",)),)
    assert "Harmful answers against mean reward" in front.svg


def test_people_and_rewards_stand_on_the_page(tmp_path):
    policies = {name: synthetic.policies(tmp_path)[name] for name in ("sft", "round-3")}
    evaluation = evaluate(EvaluateConfig(out=tmp_path / "e", policies=policies, verdict="synthetic:verdicts"))
    changed = shutil.copytree(evaluation, tmp_path / "with-people")
    tree = json.loads((changed / "summary.json").read_text())
    tree["policies"][1]["people"] = {
        "labelled": 12,
        "rate": {"value": 0.25, "low": 0.09, "high": 0.53, "n": 12},
        "agreement": {"raw": {"value": 0.75, "n": 12}, "alpha": None},
        "calibrated": None,
        "why_not": "the labelled answers are no random sample",
    }
    tree["people"] = {"are_a_random_sample": False, "unmatched": 0}
    (changed / "summary.json").write_text(json.dumps(tree))
    text = render(ReportConfig(out=tmp_path / "r", evaluation=changed))
    check(text)
    section = text[text.index('id="people-title"') :]
    assert "not known to be a random sample" in section and "the labelled answers are no random sample" in section
    assert "25.0\u00a0%" in section and "75.0&nbsp;%" in section and "not possible" in section
    assert "Nobody compared these answers: helpfulness is the mean reward" in text


def test_a_limit_is_drawn_in_the_colour_of_the_round_that_has_it(tmp_path, monkeypatch):
    rounds = []
    for name, limit in (("free", {}), ("held", {"cost_limit": 0.5})):
        (tmp_path / name).mkdir()
        line = json.dumps({"step": 1, "mean_cost": 1.0, **limit})
        (tmp_path / name / "metrics.jsonl").write_text(line, encoding="utf-8")
        rounds.append(ReportRound(name=name, ppo_lag=tmp_path / name))
    drawn = []
    monkeypatch.setattr(plots, "curves", lambda lines, label, **how: drawn.append(how["limits"]) or "")
    training(rounds)
    [(none, limit)] = drawn
    assert none is None
    assert limit.values == [0.5]
