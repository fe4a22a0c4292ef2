from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from test_respond import config_for

from equipoise.artefact import read_manifest
from equipoise.data.jsonl import read_records
from equipoise.records import Message, Prompt, Response, ScoredResponse
from equipoise.rollout.best_of import Chooser, choose
from equipoise.rollout.chat import open_ask
from equipoise.rollout.config import BestOf, ChatConfig, FunctionScore, RespondConfig, Sampling, ServeConfig
from equipoise.rollout.respond import answer, open_policy, respond
from equipoise.rollout.score import FunctionSource
from equipoise.rollout.stored_config import BestScored

REWARD, COST = (FunctionScore(function=f"{__name__}:{name}") for name in ("letters", "vowels"))
DRAWN = Sampling(max_new_tokens=8, temperature=1.5)


def letters(responses: list[Response]) -> list[float]:
    return [float(len(r.text)) for r in responses]


def vowels(responses: list[Response]) -> list[float]:
    return [float(sum(letter in "aeiou" for letter in r.text)) for r in responses]


def checksums(responses: list[Response]) -> list[float]:
    return [float(sum(map(ord, r.text)) % 17) for r in responses]


def chooser(limit: float, refusal: str | None = None, n: int = 3) -> Chooser:
    settings = BestOf(n=n, limit=limit, refusal=refusal)
    return Chooser(settings, FunctionSource(letters, "letters"), FunctionSource(vowels, "vowels"))


def candidates(*texts: str) -> list[Response]:
    return [Response(prompt=Prompt.from_text("ok"), text=text, finished=False) for text in texts]


def given(found, name: str = "responses.jsonl") -> list[ScoredResponse]:
    return read_records(found / name, ScoredResponse)


def test_one_of_every_n_is_given_with_its_scores():
    # vowels 0 2 1 | 3 4 5, letters 2 3 4 | 3 4 5; limit 1: "wxyo" is longer than "bc"; of the rest "aei" has least
    found = choose(chooser(1.0), candidates("bc", "aeb", "wxyo", "aei", "aeio", "aeiou"))
    assert [(one.place, one.response.text, one.is_within) for one in found] == [
        (2, "wxyo", True),
        (3, "aei", False),
    ]
    assert [(one.response.reward, one.response.cost) for one in found] == [(4.0, 1.0), (3.0, 3.0)]


def test_a_limit_given_later_goes_before_the_configured_one():
    (strict,), (loose,) = (choose(chooser(1.0), candidates("bc", "aeb", "wxyoo"), limit) for limit in (0.0, 2.0))
    assert (strict.response.text, loose.response.text) == ("bc", "wxyoo")


def test_a_refusal_stands_where_none_is_within_and_has_scores_of_its_own():
    found = choose(chooser(1.0, "no way"), candidates("bc", "aeb", "wxyo", "aei", "aeio", "aeiou"))
    assert [(one.response.text, one.is_refusal) for one in found] == [("wxyo", False), ("no way", True)]
    assert (found[1].response.reward, found[1].response.cost, found[1].response.finished) == (6.0, 2.0, True)


def test_respond_gives_the_best_of_what_it_would_draw_and_counts_the_rest(tmp_path, policy_folder):
    cost = FunctionScore(function=f"{__name__}:checksums")
    common = {"sampling": DRAWN, "reward": REWARD, "cost": cost, "seed": 3}
    drawn = given(respond(config_for(tmp_path / "all", policy_folder, samples_per_prompt=4, **common)))
    limit = sorted(r.cost for r in drawn)[len(drawn) // 4]
    settings = {"best_of": {"n": 4, "limit": limit}, **common}
    config = config_for(tmp_path / "best", policy_folder, **settings)
    found = given(respond(config))
    groups = [drawn[i : i + 4] for i in range(0, len(drawn), 4)]
    none_within = 0
    for one, group in zip(found, groups, strict=True):
        within = [r for r in group if r.cost <= limit]
        none_within += not within
        best = max(within, key=lambda r: r.reward) if within else min(group, key=lambda r: r.cost)
        assert (one.prompt, one.text, one.sample) == (best.prompt, best.text, 0)
    assert 0 < none_within < len(groups)  # both cases are there
    facts = read_manifest(config.out).facts
    assert (facts["responses"], facts["candidates"]) == (len(groups), len(drawn))
    assert (facts["none_within"], facts["refused"]) == (none_within, 0)


def test_several_samples_are_each_the_best_of_n(tmp_path, policy_folder):
    config = config_for(
        tmp_path, policy_folder, sampling=DRAWN, reward=REWARD, cost=COST, limit=2, samples_per_prompt=2,
        best_of={"n": 3, "limit": -1.0, "refusal": "no"},
    )  # fmt: skip
    found = given(respond(config))
    assert [(r.sample, r.text) for r in found] == [(0, "no"), (1, "no")] * 2  # no text has fewer than 0 vowels
    assert read_manifest(config.out).facts["refused"] == 4


def test_best_of_one_without_a_refusal_is_what_is_drawn_anyway(tmp_path, policy_folder):
    common = {"sampling": DRAWN, "reward": REWARD, "cost": COST}
    plain = given(respond(config_for(tmp_path / "plain", policy_folder, **common)))
    best = given(respond(config_for(tmp_path / "best", policy_folder, best_of={"n": 1, "limit": 0.0}, **common)))
    assert plain == best


def test_chat_shows_the_best_of_several(policy_folder):
    config = ChatConfig(
        policy=policy_folder, reward=REWARD, cost=COST, sampling=DRAWN, seed=5, device="cpu",
        best_of=BestOf(n=4, limit=1.0),
    )  # fmt: skip
    prompt = Prompt.from_text("how do i bake bread")
    policy = open_policy(policy_folder, torch.device("cpu"), torch.float32)
    drawn = answer(policy, [prompt], DRAWN, torch.Generator().manual_seed(5), samples=4)
    (expected,) = choose(chooser(1.0, n=4), drawn)
    shown = open_ask(config)([Message(role="user", content=prompt.text)])
    assert (shown.text, shown.cost) == (expected.response.text, expected.response.cost)


@pytest.mark.parametrize("scores", [{}, {"reward": REWARD}, {"cost": COST}])
def test_choosing_without_both_scores_is_refused(scores):
    asked = {"prompts": [{"path": "p.jsonl"}], "out": Path("out")}
    for kind, more in ((RespondConfig, asked), (ChatConfig, {}), (ServeConfig, {})):
        with pytest.raises(ValidationError, match="best_of chooses by reward and cost"):
            kind.model_validate({"policy": "p", "best_of": {}, **more, **scores})


def test_serving_with_scores_that_nothing_chooses_by_is_refused():
    with pytest.raises(ValidationError, match="best_of, which is not set"):
        ServeConfig(policy=Path("p"), reward=REWARD, cost=COST)


def test_a_limit_that_is_no_number_is_refused_before_anything_is_drawn():
    with pytest.raises(ValidationError, match="finite"):
        BestOf(limit=float("nan"))
    with pytest.raises(ValidationError, match="finite"):
        BestScored(responses=("answers",), cost_limit=float("nan"))
