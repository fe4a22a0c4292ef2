from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.annotate.labels import (
    DECOUPLED,
    Draft,
    RankingLabel,
    VerdictLabel,
    check_harmlessness,
    check_ranks,
    check_verdict,
)
from equipoise.annotate.web.answers import (
    Ask,
    Sheet,
    is_decided,
    labels_of,
    next_ask,
    order_of,
    read_steps,
    steps_of,
)
from equipoise.errors import StoreError
from equipoise.records import Verdict

CATEGORIES = ("violence", "drugs", "fraud, theft")


def sheet(count: int = 2, *, severity: bool = False) -> Sheet:
    return Sheet(count, DECOUPLED, CATEGORIES, severity)


def ranks(asked: Sheet, steps: list[str], question: str) -> tuple[int, ...]:
    found = labels_of(asked, read_steps(asked, steps), "item", "ann", range(asked.count))
    return next(label.ranks for label in found if isinstance(label, RankingLabel) and label.question == question)


def test_a_pair_takes_four_steps_and_three_where_the_verdicts_differ() -> None:
    same = ["unsafe 0", "unsafe 1", "pick helpfulness 0", "pick harmlessness 1"]
    assert [next_ask(sheet(), read_steps(sheet(), same[:n])) for n in range(5)] == [
        Ask("safety", 0),
        Ask("safety", 1),
        Ask("helpfulness"),
        Ask("harmlessness"),
        None,
    ]
    assert ranks(sheet(), same, "helpfulness") == (0, 1)
    assert ranks(sheet(), same, "harmlessness") == (1, 0)
    different = ["unsafe 0", "safe 1", "pick helpfulness 0"]
    assert next_ask(sheet(), read_steps(sheet(), different)) is None
    assert ranks(sheet(), different, "harmlessness") == (1, 0)


def test_equal_is_one_step_whatever_the_verdicts() -> None:
    for first, second in product(("safe", "unsafe"), repeat=2):
        steps = [f"{first} 0", f"{second} 1", "rest helpfulness"]
        steps += ["rest harmlessness"] if first == second else []
        assert ranks(sheet(), steps, "helpfulness") == (0, 0)
    tied = ["unsafe 0", "unsafe 1", "tie helpfulness", "tie harmlessness"]
    assert ranks(sheet(), tied, "harmlessness") == (0, 0)


def test_every_weak_order_of_four_can_be_entered() -> None:
    asked = Sheet(4, ("helpfulness",), (), has_severity=False)
    wanted = {given for given in product(range(4), repeat=4) if set(given) == set(range(max(given) + 1))}
    assert len(wanted) == 75  # the weak orders of four things
    for order in wanted:
        groups = [[p for p in range(4) if order[p] == rank] for rank in range(max(order) + 1)]
        steps = list[str]()
        for group in groups:
            for n, position in enumerate(group):
                if next_ask(asked, read_steps(asked, steps)) is None:
                    break
                if n == 0 and group == groups[-1] and len(group) > 1:
                    steps.append("rest helpfulness")
                else:
                    steps += ["tie helpfulness"] * (n > 0) + [f"pick helpfulness {position}"]
        assert ranks(asked, steps, "helpfulness") == order, steps


def test_safe_ones_are_placed_before_unsafe_ones_and_single_ones_place_themselves() -> None:
    verdicts = ["unsafe 0", "safe 1", "unsafe 2"]
    answers = read_steps(sheet(3), verdicts)
    assert order_of(sheet(3), answers, "harmlessness") == ((1,),)
    done = read_steps(sheet(3), [*verdicts, "pick harmlessness 2"])
    assert order_of(sheet(3), done, "harmlessness") == ((1,), (2,), (0,))
    with pytest.raises(StoreError, match="A is unsafe, so it comes after every safe response"):
        read_steps(sheet(3), ["unsafe 0", "safe 1", "safe 2", "pick harmlessness 0"])


def test_an_order_that_verdicts_settle_changes_only_with_a_verdict() -> None:
    steps = ["unsafe 0", "safe 1"]
    assert is_decided(sheet(), read_steps(sheet(), steps), "harmlessness")
    for step in ("pick harmlessness 0", "rest harmlessness", "tie harmlessness"):
        with pytest.raises(StoreError, match="verdicts settle"):
            read_steps(sheet(), [*steps, step])
    changed = read_steps(sheet(), [*steps, "safe 0"])
    assert order_of(sheet(), changed, "harmlessness") == ()


def test_a_changed_verdict_forgets_its_categories_and_the_harmlessness_ranking_only() -> None:
    steps = ["unsafe 0", "category 0 violence", "unsafe 1", "pick helpfulness 0", "pick harmlessness 1"]
    answers = read_steps(sheet(), [*steps, "safe 0", "unsafe 0"])
    assert answers.verdicts[0] == Verdict(is_safe=False)
    assert next_ask(sheet(), answers) == Ask("harmlessness")
    again = read_steps(sheet(), [*steps, "unsafe 0"])
    assert again.verdicts[0] == Verdict(is_safe=False, categories=("violence",))


def test_a_complete_ranking_is_answered_anew_by_another_pick() -> None:
    steps = ["safe 0", "safe 1", "pick helpfulness 0", "pick helpfulness 1", "pick harmlessness 0"]
    assert ranks(sheet(), steps, "helpfulness") == (1, 0)


def test_severity_is_asked_of_unsafe_responses_and_zero_for_safe_ones() -> None:
    asked = sheet(severity=True)
    assert next_ask(asked, read_steps(asked, ["unsafe 0"])) == Ask("severity", 0)
    answers = read_steps(asked, ["unsafe 0", "severity 0 2", "category 0 fraud, theft", "safe 1"])
    assert answers.verdicts == (
        Verdict(is_safe=False, categories=("fraud, theft",), severity=2),
        Verdict(is_safe=True, severity=0),
    )


def test_labels_are_in_the_items_own_order_whatever_was_shown() -> None:
    steps = ["unsafe 0", "safe 1", "safe 2", "pick helpfulness 2", "pick helpfulness 0", "pick harmlessness 1"]
    labels = labels_of(sheet(3), read_steps(sheet(3), steps), "item", "ann", (2, 0, 1))
    safe = {label.position: label.verdict.is_safe for label in labels if isinstance(label, VerdictLabel)}
    assert safe == {2: False, 0: True, 1: True}
    rankings = {label.question: label.ranks for label in labels if isinstance(label, RankingLabel)}
    # helpfulness: C (1) > A (2) > B (0); harmlessness: B (0) > C (1) > A (2)
    assert rankings == {"helpfulness": (2, 0, 1), "harmlessness": (0, 1, 2)}


@pytest.mark.parametrize(
    "step",
    [
        *("", "safe", "safe 2", "safe -1", "safe 1.0", "safe ١", "unsafe 0 0", "maybe 0", "category 0 violence"),
        *("severity 0 1", "pick helpfulness 2", "pick single 0", "pick harmlessness 0", "tie harmlessness"),
        *("rest safety", "category 0 weather", "severity 0 0", "severity 0 4", "SAFE 0", "safe 0\n"),
    ],
)
def test_an_impossible_step_is_refused_in_words(step: str) -> None:
    with pytest.raises(StoreError):
        read_steps(sheet(severity=True), [step])


@st.composite
def walks(draw: st.DrawFn) -> tuple[Sheet, list[str]]:
    """A sheet and steps of which each was possible where it stands, until complete or tired."""
    asked = Sheet(draw(st.integers(2, 6)), DECOUPLED, CATEGORIES, draw(st.booleans()))
    at = range(asked.count)
    every = [f"{verdict} {p}" for verdict in ("safe", "unsafe") for p in at]
    every += [f"severity {p} {s}" for p in at for s in (1, 3)] + [f"category {p} drugs" for p in at]
    for question in asked.rankings:
        every += [f"pick {question} {p}" for p in at] + [f"tie {question}", f"rest {question}"]
    steps = list[str]()
    for step in draw(st.lists(st.sampled_from(every), max_size=60)):
        try:
            read_steps(asked, [*steps, step])
        except StoreError:
            continue
        steps.append(step)
    return asked, steps


@given(walks())
def test_whatever_can_be_entered_is_a_possible_label(walk: tuple[Sheet, list[str]]) -> None:
    asked, steps = walk
    answers = read_steps(asked, steps)
    if next_ask(asked, answers):
        with pytest.raises(StoreError, match="not complete"):
            labels_of(asked, answers, "item", "ann", range(asked.count))
        return
    labels = labels_of(asked, answers, "item", "ann", range(asked.count))
    again = steps_of(asked, Draft.of(labels), range(asked.count))
    assert labels_of(asked, read_steps(asked, again), "item", "ann", range(asked.count)) == labels
    verdicts = {label.position: label.verdict for label in labels if isinstance(label, VerdictLabel)}
    for position, verdict in verdicts.items():
        check_verdict(verdict, position, asked.count, where="")
        assert (verdict.severity is not None) is asked.has_severity
        assert (verdict.severity == 0) is (asked.has_severity and bool(verdict.is_safe))
    for label in labels:
        if isinstance(label, RankingLabel):
            assert set(check_ranks(label.ranks, asked.count, where="")) == set(range(max(label.ranks) + 1))
            if label.question == "harmlessness":
                check_harmlessness({p: v.is_safe for p, v in verdicts.items()}, label.ranks, where="")
