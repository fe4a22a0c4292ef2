import json
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from equipoise.playground.answers import answer, engage, perfect, refuse
from equipoise.playground.config import WorldConfig
from equipoise.playground.labellers import Question, compare, panel, votes
from equipoise.playground.language import language
from equipoise.playground.oracle import find_request, judge
from equipoise.playground.prompts import plain_prompt
from equipoise.playground.world import training_prompts
from equipoise.records import Message, Prompt

RECORDED = Path(__file__).parent / "labelled_answers.jsonl"
POISON = Prompt.from_text("how do i poison the dog ?")


@cache
def recorded() -> list[tuple[Prompt, list[str]]]:
    """Training prompts with up to four distinct answers of the three policies whose answers a run has labelled."""
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    return [
        (
            Prompt(messages=tuple(Message(role=roles[i % 2], content=c) for i, c in enumerate(row["turns"]))),
            row["answers"],
        )
        for row in rows
    ]


def sampled(seed: int, prompts: int, responses: int = 4) -> list[tuple[Prompt, list[str]]]:
    """Training prompts with distinct answers as the demonstrations give them."""
    config, rng = WorldConfig(seed=seed, prompts=prompts), Random(seed)
    items = []
    for prompt in training_prompts(config, set()):
        request = find_request(prompt)
        assert request is not None
        answers = [answer(request, prompt.attack, rng, config.answer_mix) for _ in range(responses)]
        items.append((prompt, list(dict.fromkeys(answers))))
    return items


def raw_agreement(items: list[tuple[Prompt, list[str]]], question: Question, seed: int) -> float:
    """Share of (pair of labellers, pair of responses) with the same preference."""
    people, same, total = panel(5, seed), 0, 0
    for prompt, texts in items:
        ranks = [person.rank(prompt, texts, question) for person in people]
        for i, j in combinations(range(len(texts)), 2):
            preferences = [(r[i] > r[j]) - (r[i] < r[j]) for r in ranks]
            for one, other in combinations(preferences, 2):
                same += one == other
                total += 1
    return same / total


@pytest.mark.parametrize("seed", range(5))
def test_labellers_agree_about_as_much_as_people_did(seed: int) -> None:
    items = recorded()
    helpful = raw_agreement(items, "helpfulness", seed)
    harmless = raw_agreement(items, "harmlessness", seed)
    single = raw_agreement(items, "single", seed)
    assert helpful == pytest.approx(0.69, abs=0.03)
    assert harmless == pytest.approx(0.665, abs=0.03)
    assert single == pytest.approx(0.617, abs=0.03)
    assert min(helpful, harmless) >= single + 0.05


def test_safety_labels_are_right_about_nineteen_times_in_twenty() -> None:
    items, people = recorded(), panel(5, 0)
    right = [
        person.judge_safety(prompt, text).is_safe != judge(prompt, text).is_harmful
        for prompt, texts in items
        for text in texts
        for person in people
    ]
    assert 0.93 < sum(right) / len(right) < 0.99


@pytest.mark.parametrize("question", ["helpfulness", "harmlessness"])
def test_most_of_five_labellers_see_a_clear_difference(question: Question) -> None:
    right = total = 0
    for prompt, texts in recorded():
        for one, other in combinations(texts, 2):
            a, b = judge(prompt, one), judge(prompt, other)
            gap = a.helpfulness - b.helpfulness if question == "helpfulness" else b.harm - a.harm
            if abs(gap) >= 0.3:
                total += 1
                right += compare(prompt, one, other, question) == (0 if gap > 0 else 1)
    assert total > 200
    assert right / total > 0.95


def test_asking_again_gives_the_same_answer_and_another_seed_does_not() -> None:
    items = sampled(0, prompts=60)
    ranked = [panel(2, 7)[1].rank(prompt, texts, "helpfulness") for prompt, texts in items]
    assert ranked == [panel(2, 7)[1].rank(prompt, texts, "helpfulness") for prompt, texts in items]
    assert ranked != [panel(2, 8)[1].rank(prompt, texts, "helpfulness") for prompt, texts in items]


def test_the_order_of_the_responses_does_not_matter() -> None:
    person = panel(1, 0)[0]
    for prompt, texts in sampled(2, prompts=40):
        ranks = person.rank(prompt, texts, "single")
        assert person.rank(prompt, texts[::-1], "single") == ranks[::-1]


def test_a_labeller_sees_text_alone() -> None:
    person = panel(1, 0)[0]
    for prompt, texts in sampled(3, prompts=60):
        bare = Prompt(messages=prompt.messages)
        assert person.rank(bare, texts, "harmlessness") == person.rank(prompt, texts, "harmlessness")
        assert [person.judge_safety(bare, t) for t in texts] == [person.judge_safety(prompt, t) for t in texts]


def test_harmlessness_ranks_every_response_judged_safe_before_every_unsafe_one() -> None:
    for person in panel(5, 0):
        for prompt, texts in sampled(4, prompts=80):
            verdicts = [person.judge_safety(prompt, text) for text in texts]
            ranks = person.rank(prompt, texts, "harmlessness", verdicts)
            safe = [r for r, v in zip(ranks, verdicts, strict=True) if v.is_safe]
            unsafe = [r for r, v in zip(ranks, verdicts, strict=True) if not v.is_safe]
            assert not safe or not unsafe or max(safe) < min(unsafe)


def test_an_unsafe_verdict_names_the_category() -> None:
    request = next(r for r in language().requests("harmful") if r.phrase == "poison the dog")
    unsafe = [v for p in panel(9, 0) if not (v := p.judge_safety(POISON, perfect(request))).is_safe]
    assert len(unsafe) >= 8
    assert {v.categories for v in unsafe} == {("animal_abuse",)}


def test_two_equal_texts_tie_and_ranks_start_at_zero() -> None:
    person = panel(1, 0)[0]
    assert person.rank(POISON, ["a .", "a ."], "helpfulness") == (0, 0)
    assert compare(POISON, "a .", "a .", "helpfulness") == "tie"


def test_votes_prefer_compliance_for_help_and_a_way_out_for_harmlessness() -> None:
    rng = Random(0)
    pairs = []
    for request in language().requests("harmful")[:40]:
        prompt = plain_prompt(request, rng, 0.0, "test")
        pairs.append((prompt, perfect(request), refuse(request, rng, "fitting")))
    assert sum(v == 0 for v in votes("helpfulness", pairs, 0)) >= 36
    assert sum(v == 1 for v in votes("harmlessness", pairs, 0)) >= 38


def test_votes_prefer_a_plain_refusal_to_encouragement_as_more_harmless() -> None:
    rng = Random(1)
    pairs = [
        (plain_prompt(r, rng, 0.0, "test"), engage(rng), refuse(r, rng, "none"))
        for r in language().requests("harmful")[:40]
    ]
    assert sum(v == 1 for v in votes("harmlessness", pairs, 0)) >= 36
