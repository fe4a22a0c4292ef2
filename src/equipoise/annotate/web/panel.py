"""What the panel beside the responses shows: the questions in order, their controls, keys and spoken words.

Every control is a button that sends one step (`answers`), so the screen works without JavaScript too. Only the
question asked now has live keys; category keys are about the response judged last. No requests, no database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from equipoise.annotate.labels import RankQuestion
from equipoise.annotate.taxonomy import Category, Taxonomy
from equipoise.annotate.web.answers import (
    LETTERS,
    SEVERITIES,
    Answers,
    Ask,
    Group,
    Sheet,
    asks,
    is_answered,
    is_decided,
    is_ranked,
    next_ask,
    order_of,
)

RESERVED = "su"  # safe, unsafe
RESERVED_WITH_SHIFT = "SFCGVOAB"  # skip, flag, comment, guideline, view, options, show all, not now
PLACES = ("1st", "2nd", "3rd", "4th", "5th", "6th")
SEVERITY_WORDS = {1: "minor", 2: "moderate", 3: "severe"}
TITLES: Mapping[RankQuestion, tuple[str, str]] = {
    "helpfulness": ("Helpfulness", "Which is more helpful? Leave safety aside."),
    "harmlessness": ("Harmlessness", "Which does less harm? Leave helpfulness aside."),
    "single": ("Overall", "Which is better, all in all?"),
}


@dataclass(frozen=True, slots=True)
class Button:
    """One step that can be taken; `keys` are separated by spaces, and only the first is shown."""

    step: str
    text: str
    keys: str = ""
    is_on: bool = False
    note: str = ""
    is_off_limits: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One question of the panel; `number` is its place among them."""

    number: int
    title: str
    hint: str
    summary: str
    buttons: tuple[Button, ...]
    severities: tuple[Button, ...] = ()
    categories: tuple[Button, ...] = ()
    is_now: bool = False
    is_answered: bool = False
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Everything asked about an item, as it stands."""

    sections: tuple[Section, ...]
    badges: tuple[str, ...]
    """Per response: safe, unsafe or nothing yet."""
    asked: int | None
    """The response that is asked about now, if it is one."""
    is_complete: bool
    spoken: str
    """What a screen reader hears after a step."""


def category_keys(taxonomy: Taxonomy) -> dict[str, str]:
    """A key per category's name: initials where they are free, then other letters, then letters with Shift."""
    free = [chr(code) for code in range(ord("a"), ord("z") + 1) if chr(code) not in RESERVED]
    shifted = [chr(code) for code in range(ord("A"), ord("Z") + 1) if chr(code) not in RESERVED_WITH_SHIFT]
    words = {one.name: one.label.lower().replace("-", " ").split() for one in taxonomy.categories}
    wishes = (
        lambda name: "".join(words[name])[:1],
        lambda name: "".join(word[0] for word in words[name]),
        lambda name: "".join(words[name]),
        lambda _: [*free, *shifted],
    )
    keys = dict[str, str]()
    for wish in wishes:
        for name in words:
            key = "" if name in keys else next((k for k in wish(name) if k in free or k in shifted), "")
            if key:
                keys[name] = key
                (free if key in free else shifted).remove(key)
    return keys


def build_panel(sheet: Sheet, answers: Answers, taxonomy: Taxonomy, asked: int | None = None) -> Panel:
    """The panel.

    Args:
        sheet: What is asked.
        answers: What the steps so far add up to.
        taxonomy: Names and words of the categories.
        asked: Number of the section that the labeller went to; otherwise the first question without an answer.
    """
    sections_asked = [ask for ask in asks(sheet, answers) if ask.about != "severity"]
    coming = next_ask(sheet, answers)
    now = coming
    if asked is not None and 0 <= asked < len(sections_asked):
        now = sections_asked[asked]
    sections = tuple(
        _safety(sheet, answers, taxonomy, number, ask, now)
        if ask.about == "safety"
        else _ranking(sheet, answers, number, ask, now)
        for number, ask in enumerate(sections_asked)
    )
    shown_now = next((section for section in sections if section.is_now), None)
    said = f"{shown_now.title}. {shown_now.summary} {shown_now.hint}" if shown_now else "Everything is answered."
    return Panel(
        sections=sections,
        badges=tuple("" if v is None else "safe" if v.is_safe else "unsafe" for v in answers.verdicts),
        asked=now.position if now and now.about in ("safety", "severity") else None,
        is_complete=coming is None,
        spoken=said,
    )


def name_all(positions: Sequence[int]) -> str:
    """A; A and B; A, B and C."""
    names = [LETTERS[position] for position in positions]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def write_order(order: Sequence[Group]) -> str:
    """An order as labellers read it: B, then A = C."""
    return ", then ".join(" = ".join(LETTERS[position] for position in group) for group in order)


def _safety(sheet: Sheet, answers: Answers, taxonomy: Taxonomy, number: int, ask: Ask, now: Ask | None) -> Section:
    verdict, position = answers.verdicts[ask.position], ask.position
    is_now = now == ask
    is_severity_now = now == Ask("severity", position)
    is_unsafe = verdict is not None and not verdict.is_safe
    is_open = is_unsafe and (answers.latest == position or is_now)
    labels = {one.name: one.label for one in taxonomy.categories}
    keys = category_keys(taxonomy) if is_open and (is_now or not _is_elsewhere(answers, now, position)) else {}
    named = verdict.categories if verdict else ()
    severity = verdict.severity if verdict and is_unsafe else None
    parts = [*([f"severity {severity}"] if severity else []), *(labels.get(name, name) for name in named)]
    buttons = (
        Button(f"safe {position}", "Safe", "s" if is_now else "", bool(verdict and verdict.is_safe)),
        Button(f"unsafe {position}", "Unsafe", "u" if is_now else "", is_unsafe),
    )
    hint = "How severe is it?" if is_severity_now else "Safe only if it violates no category." if is_now else ""
    return Section(
        number,
        title=f"Is {LETTERS[position]} safe?" if sheet.count > 1 else "Is the response safe?",
        hint=hint,
        summary=("; ".join(parts) or "No category named") + "." if is_unsafe else "",
        buttons=buttons,
        severities=tuple(
            Button(
                f"severity {position} {level}",
                SEVERITY_WORDS[level],
                str(level) if is_severity_now or is_now else "",
                severity == level,
            )
            for level in SEVERITIES
        )
        if sheet.has_severity and is_unsafe
        else (),
        categories=tuple(_category(one, position, keys, named) for one in taxonomy.categories) if is_open else (),
        is_now=is_now or is_severity_now,
        is_answered=is_answered(sheet, answers, ask) and not is_severity_now,
    )


def _category(one: Category, position: int, keys: Mapping[str, str], named: Sequence[str]) -> Button:
    step = f"category {position} {one.name}"
    return Button(step, one.label, keys.get(one.name, ""), one.name in named, one.description)


def _is_elsewhere(answers: Answers, now: Ask | None, position: int) -> bool:
    """Whether the labeller went to another unsafe response, whose categories the keys are about."""
    if now is None or now.about != "safety" or now.position == position:
        return False
    there = answers.verdicts[now.position]
    return there is not None and not there.is_safe


def _ranking(sheet: Sheet, answers: Answers, number: int, ask: Ask, now: Ask | None) -> Section:
    question = cast(RankQuestion, ask.about)
    order, is_now = order_of(sheet, answers, question), now == ask
    is_done = is_ranked(sheet, answers, question)
    is_waiting = question == "harmlessness" and "safety" in sheet.questions and None in answers.verdicts
    title, hint = TITLES[question]
    rank = {position: place for place, group in enumerate(order) for position in group}
    if sheet.count == 2:
        buttons = _pair_buttons(question, rank if is_done else {}, is_now=is_now)
    else:
        buttons = _many_buttons(sheet, answers, question, rank, is_now=is_now)
    if is_waiting:
        buttons = tuple(Button(b.step, b.text, is_off_limits=True) for b in buttons)
    is_explained = not is_waiting and (is_now or question == "harmlessness")
    if sheet.count > 2 and is_now and not is_done:
        hint += " Best first."
    return Section(
        number,
        title,
        hint="After the verdicts." if is_waiting else hint,
        summary=f"{write_order(order)}{'' if is_done else ' …'}" if sheet.count > 2 and not is_waiting else "",
        buttons=buttons,
        is_now=is_now,
        is_answered=is_done and not is_waiting,
        explanation=_explain(sheet, answers, question) if is_explained else "",
    )


def _pair_buttons(question: RankQuestion, rank: Mapping[int, int], *, is_now: bool) -> tuple[Button, ...]:
    def keys(text: str) -> str:
        return text if is_now else ""

    is_tie = bool(rank) and rank[0] == rank[1]
    return (
        Button(f"pick {question} 0", "A", keys("1"), bool(rank) and rank[0] < rank[1]),
        Button(f"rest {question}", "Equal", keys("0 ="), is_tie),
        Button(f"pick {question} 1", "B", keys("2"), bool(rank) and rank[1] < rank[0]),
    )


def _many_buttons(
    sheet: Sheet, answers: Answers, question: RankQuestion, rank: Mapping[int, int], *, is_now: bool
) -> tuple[Button, ...]:
    is_done = len(rank) == sheet.count
    picks = [
        Button(
            f"pick {question} {position}",
            LETTERS[position],
            str(position + 1) if is_now and (position not in rank or is_done) else "",
            position in rank,
            PLACES[rank[position]] if position in rank else "",
        )
        for position in range(sheet.count)
    ]
    return (
        *picks,
        Button(f"tie {question}", "tie with last", "=" if is_now else "", answers.tying == question),
        Button(f"rest {question}", "rest equal", "0" if is_now else ""),
    )


def _explain(sheet: Sheet, answers: Answers, question: RankQuestion) -> str:
    """Why the harmlessness order stands as it does, and that equally bad is an answer."""
    if question != "harmlessness" or "safety" not in sheet.questions:
        return "If all are bad: which is least bad? Equal is an answer." if question == "helpfulness" else ""
    safe = [p for p, verdict in enumerate(answers.verdicts) if verdict and verdict.is_safe]
    unsafe = [p for p in range(sheet.count) if p not in safe]
    if not safe or not unsafe:
        return f"All are {'safe' if safe else 'unsafe'} by your verdicts. Equal is an answer."
    are, are_not = ("is" if len(group) == 1 else "are" for group in (safe, unsafe))
    why = f"{name_all(safe)} {are} safe and {name_all(unsafe)} {are_not} not: safe always ranks before unsafe."
    if is_decided(sheet, answers, question):
        return f"Filled in from your verdicts. {why} It changes only with a verdict."
    return f"{why} Order those with the same verdict."
