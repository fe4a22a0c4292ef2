import json
import math
from itertools import product

import numpy as np
import pytest
from judge_project import judge_config, let_people_label, make_items, make_project
from scripted_judge import honest, question_of, scripted_judge

from equipoise.annotate.judge.card import JudgeCard
from equipoise.annotate.judge.judge import Heard
from equipoise.annotate.judge.lean import Compared, PairHeard, length_lean, order_lean, pairs_heard
from equipoise.annotate.judge.page import lines, markdown
from equipoise.annotate.judge.parser import Unscored
from equipoise.annotate.judge.people import read_people
from equipoise.annotate.judge.run import judge
from equipoise.annotate.judge.scores import ScoresJudge
from equipoise.annotate.labels import Assignment, Item, VerdictLabel
from equipoise.annotate.store.judge_answers import ANSWERS_FILE, Answers
from equipoise.annotate.store.project import open_project
from equipoise.records import Prompt, Verdict
from equipoise.stats import has_finite_fit


def pair(straight, turned, first="short", second="much longer text", n=0) -> PairHeard:
    item = Item(prompt=Prompt.from_text(f"prompt {n}"), responses=(first, second))
    return PairHeard(item, 0, 1, straight, turned)


def test_answers_about_an_item_are_put_together_by_pair():
    item = Item(prompt=Prompt.from_text("?"), responses=("a", "b"))
    heard = [
        Heard("safety", (0,), Unscored("empty")),
        Heard("helpfulness", (0, 1), "A"),
        Heard("helpfulness", (1, 0), "tie"),
    ]
    assert pairs_heard(item, heard, "helpfulness") == [PairHeard(item, 0, 1, "A", "tie")]
    assert pairs_heard(item, heard, "harmlessness") == []


def test_order_lean_counts_each_pair_once():
    pairs = [
        pair("A", "B"),  # the same response both times: ½ of the wins are the first shown's
        pair("A", "A"),  # whoever is first: 1
        pair("A", "A"),
        pair("B", "B"),  # whoever is second: 0
        pair("tie", "A"),  # the only winner was first: 1
        pair("tie", "tie"),  # no winner
        pair(Unscored("empty"), "B"),  # the only winner was second: 0
    ]
    lean = order_lean(pairs)
    assert lean.first_wins is not None
    assert (lean.first_wins.value, lean.first_wins.n) == (pytest.approx(3.5 / 6), 6)
    assert (lean.both_first, lean.both_second) == (3, 2)
    assert lean.p == 1.0  # 3 of 5 against ½
    assert order_lean([]).first_wins is order_lean([]).p is None


def test_what_people_said_of_a_repeat_is_not_what_they_said_before(tmp_path):
    prompt, ann = Prompt.from_text("?"), "ann"
    before, again = (Item(prompt=prompt, responses=("a",), questions=("safety",), repeat=n) for n in (0, 1))
    path = make_project(tmp_path / "project", [before, again])
    with open_project(path) as store:
        store.add_labellers([ann], "person")
        for item, is_safe in ((before, True), (again, False)):
            store.assign([Assignment(item.id, ann, (0,))])
            store.add_labels([VerdictLabel(item.id, ann, 0, Verdict(is_safe=is_safe))])
        people = read_people(store)
    assert [people.is_safe(item, 0) for item in (before, again)] == [True, False]
    assert [people.safety_votes(item, 0) for item in (before, again)] == [[True], [False]]


def test_interval_of_the_order_lean_covers_a_fair_judge_that_often_flips():
    random, covered = np.random.default_rng(0), []
    for _ in range(300):
        letters = random.choice(["A", "B"], size=(60, 2))
        rate = order_lean([pair(*two) for two in letters]).first_wins
        covered.append(rate.low <= 0.5 <= rate.high)
    assert np.mean(covered) > 0.93


def draw(count, slope, worth, seed=0):
    """A judge that prefers by quality and length: log-odds slope·log₂ of the length ratio + worth·people."""
    random = np.random.default_rng(seed)
    pairs = []
    for n in range(count):
        lengths = random.integers(10, 200, size=2)
        people = int(random.choice([-1, 0, 1]))
        ratio = math.log2((lengths[0] + 1) / (lengths[1] + 1))
        first_wins = random.random() < 1 / (1 + math.exp(-(slope * ratio - worth * people)))
        letters = ("A", "B") if first_wins else ("B", "A")
        pairs.append(Compared(pair(*letters, "x" * lengths[0], "y" * lengths[1], n), people))
    return pairs


def test_length_lean_finds_the_slope_that_the_judge_has_beside_peoples_preference():
    lean = length_lean(draw(2000, slope=0.7, worth=2.0))
    assert lean.controlled.low < 0.7 < lean.controlled.high
    assert lean.controlled.p < 1e-6
    assert lean.controlled.n == 2000
    assert lean.longer_wins.low > 0.55
    assert 0.55 < lean.at_parity.low < lean.at_parity.high < 0.8
    none = length_lean(draw(2000, slope=0.0, worth=2.0, seed=1))
    assert none.controlled.low < 0 < none.controlled.high
    assert none.longer_wins.low < 0.5 < none.longer_wins.high


def test_length_lean_without_evidence_is_none():
    always = [Compared(pair("B", "A", n=n), None) for n in range(20)]  # the longer always wins: no finite slope
    lean = length_lean(always)
    assert (lean.longer_wins.value, lean.slope, lean.controlled, lean.at_parity) == (1.0, None, None, None)
    same = [Compared(pair("B", "A", "one", "two", n), 0) for n in range(20)]
    assert length_lean(same).longer_wins is length_lean(same).slope is None
    assert length_lean([]).longer_wins is None


def test_a_logistic_fit_is_finite_unless_a_covariate_separates():
    x = np.array([[1.0], [2.0], [-1.0], [-2.0]])
    assert not has_finite_fit(x, np.array([1.0, 1, 0, 0]))
    assert has_finite_fit(x, np.array([1.0, 0, 0, 0]))
    assert has_finite_fit(x, np.array([1.0, 0.5, 0, 0]))  # ½ is one of each
    assert not has_finite_fit(np.zeros((4, 1)), np.array([1.0, 0, 1, 0]))
    grid = np.array(list(product([-1.0, 1.0], repeat=2)))
    assert not has_finite_fit(grid, (grid.sum(axis=1) > 0).astype(float))


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> JudgeCard:
    """A judge that misses half of the bombs and every fourth safe response; people labelled 40 of 150 items."""

    def unsure(body):
        if question_of(body) != "safety":
            return honest(body)
        verdict = json.loads(honest(body))
        text = body["messages"][1]["content"]
        number = int(text.split("answer ")[1].split()[0])
        wrong = number % 2 == 0 if not verdict["is_safe"] else number % 4 == 1
        is_safe = verdict["is_safe"] != wrong
        return json.dumps({"categories": [] if is_safe else ["self_harm"], "is_safe": is_safe})

    items = make_items(150, responses=2, seed=3)
    path = make_project(tmp_path_factory.mktemp("card") / "p", items)
    let_people_label(path, items[:40])
    with scripted_judge() as server:
        server.brain = unsure
        judge(judge_config(path, server.url, {"input_price": 1.0, "output_price": 2.0}))
    text = (path / "judges" / "scripted" / "card.json").read_text(encoding="utf-8")
    return JudgeCard.model_validate_json(text)


def test_a_judges_rate_comes_with_the_one_that_people_calibrate(card):
    items = make_items(150, responses=2, seed=3)
    truth = np.mean(["bomb" in text for item in items for text in item.responses])
    unsafe = card.unsafe
    assert unsafe.judge.n == 300
    assert (unsafe.calibrated.n, unsafe.calibrated.n_predicted) == (40, 110)
    assert unsafe.calibrated.low < truth < unsafe.calibrated.high
    assert unsafe.people.n == 40


def test_agreement_with_people_equals_a_hand_count(card):
    items = make_items(150, responses=2, seed=3)[:40]
    wrong = 0
    for n, item in enumerate(items):
        wrong += sum(n % 2 == 0 if "bomb" in text else n % 4 == 1 for text in item.responses)
    assert card.safety.judge.raw.value == pytest.approx(1 - wrong / 80)
    assert card.safety.judge.raw.n == 80
    assert card.safety.people.raw.value == 1.0
    assert card.questions["helpfulness"].against_people.judge.raw.value == 1.0


def test_the_card_says_what_it_cost_and_how_it_looks(card):
    assert card.spending.money == pytest.approx(card.spending.calls * (100 * 1 + 10 * 2) * 1e-6)
    page = markdown(card)
    for line in lines(card):
        assert line.name in page
    assert "unsafe, calibrated by people" in page
    assert f"| items | {card.judged} of {card.items} |" in page


class Numbers:
    """A score source that counts words and how often it is asked."""

    def __init__(self, word):
        self.word, self.asked = word, 0

    def score(self, responses):
        self.asked += 1
        return [float(response.text.count(self.word)) - 0.5 * (self.word == "bomb") for response in responses]


def test_reward_and_cost_models_judge_by_their_numbers_and_are_asked_once(tmp_path):
    item = Item(
        prompt=Prompt.from_text("?"),
        responses=("a bomb !", "no", "bomb bomb ! !"),
        questions=("safety", "helpfulness", "harmlessness", "single"),
    )
    with Answers(tmp_path / ANSWERS_FILE) as answers:
        reward, cost = Numbers("!"), Numbers("bomb")
        for _ in range(2):
            found = ScoresJudge(reward, cost, answers, {"type": "scores"}).judge(item)
    assert (reward.asked, cost.asked) == (1, 1)
    assert [found.verdicts[at].is_safe for at in range(3)] == [False, True, False]
    assert found.rankings == {"helpfulness": (1, 2, 0), "harmlessness": (1, 0, 2)}
    assert found.unranked == {"single": "rejected"}
