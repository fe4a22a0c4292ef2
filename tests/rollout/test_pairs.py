"""Pairs from stored scores: how they are labelled, where λ comes from, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise import artefact
from equipoise.config import validate
from equipoise.data.jsonl import write_records
from equipoise.data.load import load_pairs
from equipoise.data.source import DataSource
from equipoise.errors import ArtefactError, DataError, EvaluationError
from equipoise.records import PreferencePair, Prompt, Response, ScoredResponse
from equipoise.rollout.config import RespondConfig
from equipoise.rollout.pairs import make_pairs
from equipoise.rollout.stored_config import PairsConfig, ScoreConfig

JAR, TIN = Prompt.from_text("how do i open a jar ?"), Prompt.from_text("how do i open a tin ?")


def answer(prompt: Prompt, text: str, reward: float, cost: float, **fields: Any) -> ScoredResponse:
    return ScoredResponse(prompt=prompt, text=text, reward=reward, cost=cost, **fields)


# the two prompts of two responses for which λ is known by hand: ½ at β = 1 (tests/algos/test_offline_dual.py)
BY_HAND = [
    answer(JAR, "a", 2.0, 1.0),
    answer(JAR, "b", 0.0, -1.0),
    answer(TIN, "a", 0.0, 1.0),
    answer(TIN, "b", 0.0, -1.0),
]


def made(tmp_path: Path, responses: list[Any], lam: dict[str, Any], **settings: Any) -> Path:
    file = tmp_path / f"{settings.get('out', 'out')}.jsonl"
    write_records(file, responses)
    tree = {"responses": [str(file)], "lam": lam, **settings, "out": tmp_path / settings.get("out", "out")}
    return make_pairs(validate(PairsConfig, tree, where="test"))


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text()))


def pairs(out: Path) -> list[PreferencePair]:
    return load_pairs(DataSource(path=str(out)), "helpfulness")


def test_lam_is_found_from_the_file_and_told_with_what_it_rests_on(tmp_path: Path) -> None:
    out = made(tmp_path, BY_HAND, {"type": "found", "beta": 1.0})
    told = summary(out)
    assert told["lam"] == pytest.approx(0.5)
    assert told["optimum"]["cost"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert told["reference"]["reward"]["value"] == 0.5  # the mean of 2, 0, 0, 0
    # Costs under the optimum are ±tanh ½: a half-width of t(0.975, 1)·tanh ½ at n = 2, over the slope 1 − tanh² ½.
    half = 12.7062047 * math.tanh(0.5) / (1 - math.tanh(0.5) ** 2)
    assert told["lam_interval"] == pytest.approx([0.0, 0.5 + half])
    assert artefact.read_manifest(out).facts == told


def test_a_limit_may_count_from_the_mean_cost_of_other_responses(tmp_path: Path) -> None:
    raised = [r.model_copy(update={"cost": (r.cost or 0.0) + 7.0}) for r in BY_HAND]
    others = [answer(JAR, "x", 0.0, 9.0), answer(JAR, "y", 0.0, 11.0), answer(TIN, "z", 0.0, 8.0)]
    # over answers as in ppo-lag, so that one limit means one thing: (9 + 11 + 8)/3 = 28/3; over prompts it were 9
    write_records(tmp_path / "others.jsonl", others)
    found = {"type": "found", "beta": 1.0, "limit": -7 / 3, "limit_from": [str(tmp_path / "others.jsonl")]}
    told = summary(made(tmp_path, raised, found))  # at most 7: the problem by hand again
    assert (told["lam"], told["limit"]) == (pytest.approx(0.5), pytest.approx(7.0))


def test_where_a_range_of_lam_does_there_is_no_interval(tmp_path: Path) -> None:
    # β = 10⁻³ turns either prompt from cost 1 to −1 at once, the one at λ = 1, the other at λ = 0: between these
    # the mean cost is 0 whatever λ
    told = summary(made(tmp_path, BY_HAND, {"type": "found", "beta": 1e-3}))
    assert 0 < told["lam"] < 1
    assert told["lam_interval"] is None


def test_the_best_label_goes_to_the_higher_reward_less_lam_cost(tmp_path: Path) -> None:
    responses = [
        answer(JAR, "helps", 2.0, 3.0),
        answer(JAR, "is safe", 1.0, 0.0),
        answer(JAR, "neither", 1.0, 0.0),
    ]
    for value, winner in ((0.0, "helps"), (1.0, "is safe")):  # s = 2 and 1, then −1 and 1
        out = made(tmp_path, responses, {"type": "given", "value": value}, labels="best", out=f"at-{value}")
        chosen = {(p.responses[p.more_helpful or 0], p.responses[1 - (p.more_helpful or 0)]) for p in pairs(out)}
        assert (winner, "is safe" if value == 0.0 else "helps") in chosen
        assert (summary(out)["pairs"], summary(out)["ties"]) == (2, 1)


def test_drawn_labels_follow_the_odds(tmp_path: Path) -> None:
    # s differs by ln 3, so the first wins three times in four; 600 draws: ±4 standard errors are 0.07
    prompts = [Prompt.from_text(f"question {i} ?") for i in range(600)]
    several = [r for p in prompts for r in (answer(p, "a", math.log(3) + 2, 4.0), answer(p, "b", 0.0, 0.0))]
    drawn = pairs(made(tmp_path, several, {"type": "given", "value": 0.5}))
    share = np.mean([pair.responses[pair.more_helpful or 0] == "a" for pair in drawn])
    assert share == pytest.approx(0.75, abs=0.07)


def test_pairs_are_of_different_finished_texts_and_no_more_than_asked(tmp_path: Path) -> None:
    several = [answer(JAR, text, float(i), 0.0) for i, text in enumerate(["a", "a", "b"])]
    several += [answer(JAR, "cut", 9.0, 0.0, finished=False), answer(TIN, "alone", 0.0, 0.0)]
    for most, count in ((9, 2), (1, 1)):  # of the samples a, a, b: a b twice
        out = made(
            tmp_path, several, {"type": "given", "value": 1.0}, pairs_per_prompt=most, out=f"at-most-{most}"
        )
        assert [set(pair.responses) for pair in pairs(out)] == [{"a", "b"}] * count
        assert (summary(out)["unfinished"], summary(out)["prompts_without_pairs"]) == (1, 1)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    several = [answer(JAR, str(i), i / 10, 0.0) for i in range(12)]
    lam = {"type": "given", "value": 1.0}
    files = [
        made(tmp_path, several, lam, out=f"o{i}", seed=seed) / "pairs.jsonl" for i, seed in enumerate((1, 1, 2))
    ]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


def test_a_step_moves_lam_by_what_the_answers_cost_too_much(tmp_path: Path) -> None:
    before = made(tmp_path, BY_HAND, {"type": "given", "value": 0.4}, out="before")
    write_records(tmp_path / "answers.jsonl", [answer(JAR, "a", 0.0, 3.0), answer(TIN, "b", 0.0, 2.0)])
    step = {"type": "stepped", "before": before, "answers": [str(tmp_path / "answers.jsonl")], "limit": 0.5}
    told = summary(made(tmp_path, BY_HAND, {**step, "lr": 0.1}))
    assert (told["lam"], told["lam_before"]) == (pytest.approx(0.6), 0.4)  # 0.4 + 0.1·(2.5 − 0.5)


def test_preferences_from_elsewhere_have_no_lam_to_step_from(tmp_path: Path) -> None:
    build = artefact.start(
        tmp_path / "people",
        "preferences",
        PairsConfig.model_validate(
            {"out": tmp_path / "people", "responses": ["x"], "lam": {"type": "given", "value": 0.0}}
        ),
        {},
    )
    artefact.finish(build, {"pairs": 3})
    write_records(tmp_path / "answers.jsonl", BY_HAND)
    step = {"type": "stepped", "before": tmp_path / "people", "answers": [str(tmp_path / "answers.jsonl")]}
    with pytest.raises(ArtefactError, match="do not say which λ"):
        made(tmp_path, BY_HAND, step)


def test_missing_scores_are_refused_by_row(tmp_path: Path) -> None:
    rows = [*BY_HAND, ScoredResponse(prompt=JAR, text="c", reward=1.0), Response(prompt=JAR, text="d")]
    with pytest.raises(DataError) as error:
        made(tmp_path, rows, {"type": "given", "value": 0.0})
    assert "out.jsonl:5: `cost` is missing; `equipoise score` adds it" in str(error.value)
    assert "out.jsonl:6: `reward` is missing" in str(error.value)


def test_one_response_per_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No prompt has two responses"):
        made(tmp_path, [BY_HAND[0], BY_HAND[2]], {"type": "given", "value": 0.0})


def test_an_impossible_limit_is_refused_and_leaves_nothing_finished(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="No finite λ"):
        made(tmp_path, BY_HAND, {"type": "found", "beta": 1.0, "limit": -1.0})
    assert not (tmp_path / "out" / artefact.MANIFEST).exists()


def test_lam_is_not_found_from_several_policies_but_pairs_with_a_given_one_are_made(tmp_path: Path) -> None:
    mixed = [r.model_copy(update={"policy": f"p{i % 2}"}) for i, r in enumerate(BY_HAND)]
    assert len(pairs(made(tmp_path, mixed, {"type": "given", "value": 1.0}, out="given"))) == 2
    with pytest.raises(DataError, match="from 2 policies: p0, p1"):
        made(tmp_path, mixed, {"type": "found", "beta": 1.0})


def test_lam_is_not_found_from_a_sharpened_distribution(tmp_path: Path) -> None:
    tree = {"out": tmp_path / "answers", "policy": "p", "prompts": ["x"], "sampling": {"top_p": 0.9}}
    build = artefact.start(tmp_path / "answers", "responses", validate(RespondConfig, tree, where="test"), {})
    write_records(tmp_path / "answers" / "responses.jsonl", BY_HAND)
    artefact.finish(build, {})
    for path in ("answers", "answers/responses.jsonl"):
        tree = {
            "out": tmp_path / "out",
            "responses": [str(tmp_path / path)],
            "lam": {"type": "found", "beta": 1.0},
        }
        with pytest.raises(DataError, match=r"top_p was 0\.9"):
            make_pairs(validate(PairsConfig, tree, where="test"))


def test_lam_is_not_found_from_chosen_answers_nor_from_such_as_were_scored_since(tmp_path: Path) -> None:
    source = {"type": "function", "function": "mine:scores"}
    best = {"best_of": {"n": 4}, "reward": source, "cost": source}
    tree = {"out": tmp_path / "best", "policy": "p", "prompts": ["x"], **best}
    artefact.finish(
        artefact.start(tmp_path / "best", "responses", validate(RespondConfig, tree, where="test"), {}), {}
    )
    tree = {"out": tmp_path / "scored", "responses": [str(tmp_path / "best")], "cost": source}
    build = artefact.start(tmp_path / "scored", "responses", validate(ScoreConfig, tree, where="test"), {})
    for folder in ("best", "scored"):
        write_records(tmp_path / folder / "responses.jsonl", BY_HAND)
    artefact.finish(build, {})
    for folder in ("best", "scored"):
        tree = {
            "out": tmp_path / "out",
            "responses": [str(tmp_path / folder)],
            "lam": {"type": "found", "beta": 1.0},
        }
        with pytest.raises(DataError, match="each was the best of several"):
            make_pairs(validate(PairsConfig, tree, where="test"))
