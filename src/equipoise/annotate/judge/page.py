"""How a judge card looks: one list of lines, as Markdown and as a table in the terminal, beside card.json.

No numbers are made here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equipoise.annotate.agreement import Agreement
from equipoise.annotate.judge.card import AgainstPeople, JudgeCard, QuestionCard, Unsafe
from equipoise.annotate.judge.lean import LengthLean, OrderLean, Slope
from equipoise.annotate.judge.parser import REASONS
from equipoise.artefact import write_json, write_text
from equipoise.stats import Calibrated, Rate

NOT_MEASURED = "not measured"


class Line(NamedTuple):
    """One number in words; an empty value makes `name` a heading."""

    name: str
    value: str = ""
    note: str = ""


def write_card(folder: Path, card: JudgeCard) -> None:
    """Write card.json and card.md into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "card.json", card.model_dump(mode="json"))
    write_text(folder / "card.md", markdown(card))


def print_card(card: JudgeCard) -> None:
    """Print the card as a table."""
    table = Table(box=box.SIMPLE_HEAD, title=f"Judge {card.judge}", title_justify="left")
    for heading in ("", "value [95 % interval]", ""):
        table.add_column(heading, overflow="fold")
    for line in lines(card):
        if not line.value:
            table.add_section()
        style = "" if line.value else "bold"
        table.add_row(Text(line.name, style=style), Text(line.value), Text(line.note, style="dim"))
    Console().print(table)


def markdown(card: JudgeCard) -> str:
    """The card as a Markdown page."""
    parts = [f"# Judge {card.judge}", ""]
    for line in lines(card):
        if line.value:
            parts.append(f"| {line.name} | {line.value} | {line.note} |".replace("\n", " "))
        else:
            parts += ["", f"## {line.name}", "", "| | value [95 % interval] | |", "|---|---|---|"]
    settings = [f"- {key}: {value}" for key, value in card.settings.items() if value not in (None, {}, [])]
    parts += ["", "## Settings that its answers depend on", "", *settings, f"- equipoise: {card.version}", ""]
    return "\n".join(parts)


def lines(card: JudgeCard) -> Iterator[Line]:
    """Everything on the card, in order."""
    yield Line("What was judged")
    yield Line("items", f"{card.judged} of {card.items}", card.stopped.replace("\n", " "))
    if card.without_answer:
        yield Line("items without an answer", str(card.without_answer), "the same command asks again")
    yield from _answers(card)
    if card.safety is not None and card.unsafe is not None:
        yield Line("Safety")
        yield from _against(card.safety)
        yield from _unsafe(card.unsafe)
    if card.refusal is not None:
        yield Line("Refusal")
        yield from _against(card.refusal)
    for question, numbers in card.questions.items():
        yield Line(question.capitalize())
        yield from _question(numbers)


def _answers(card: JudgeCard) -> Iterator[Line]:
    if card.parsed is not None:
        yield Line("answers that could be read", _rate(card.parsed), f"n = {card.parsed.n}")
        for reason, rate in card.unscored.items():
            yield Line(f"unscored: {reason}", _rate(rate), REASONS[reason])
    spent = card.spending
    yield Line("requests sent", str(spent.calls), f"{spent.lost} of them brought no answer")
    yield Line(
        "tokens read, written", f"{spent.prompt_tokens}, {spent.completion_tokens}", _unknown(spent.without_usage)
    )
    yield Line("cost", f"{spent.money:.4f}", "over all runs, unknown costs at their worst; 0 without prices")


def _unknown(count: int) -> str:
    return f"without those of {count} answers that did not say" if count else ""


def _against(both: AgainstPeople) -> Iterator[Line]:
    yield Line("agrees with people's majority", _agreement(both.judge), f"n = {both.judge.raw.n}")
    note = f"pairs of people: {both.people.raw.n}; without majority, left out: {both.unsettled}"
    yield Line("people agree with each other", _agreement(both.people), note)


def _unsafe(unsafe: Unsafe) -> Iterator[Line]:
    judge = _rate(unsafe.judge)
    yield Line("unsafe, by the judge alone", judge, f"n = {unsafe.judge.n} responses" if unsafe.judge else "")
    note = f"n = {unsafe.people.n} items" if unsafe.people else "people's labels are too few or all alike"
    yield Line("unsafe, by people alone", _estimate(unsafe.people), note)
    found = unsafe.calibrated
    note = (
        f"{found.n} items of people, {found.n_predicted} more of the judge, λ = {found.power:.2f}" if found else ""
    )
    yield Line("unsafe, calibrated by people", _estimate(found), note or unsafe.why_not)


def _question(numbers: QuestionCard) -> Iterator[Line]:
    yield from _against(numbers.against_people)
    asked = f"pairs asked: {numbers.pairs}; not asked, the verdicts or scores settle them: {numbers.settled}"
    yield Line("flips with the order", _rate(numbers.flips), asked)
    yield Line("a tie in one order only", _rate(numbers.wavering))
    yield Line("ties, those two included", _rate(numbers.ties))
    yield from _order(numbers.order)
    yield from _length(numbers.length)
    if numbers.unranked:
        left = ", ".join(f"{reason} {count}" for reason, count in numbers.unranked.items())
        yield Line("items left unranked", str(sum(numbers.unranked.values())), left)


def _order(lean: OrderLean) -> Iterator[Line]:
    both = f"winner first in both orders: {lean.both_first}, second in both: {lean.both_second}"
    test = both if lean.p is None else f"{both}; p = {lean.p:.2g}"
    yield Line("the first shown wins", _rate(lean.first_wins), test)


def _length(lean: LengthLean) -> Iterator[Line]:
    of = f"n = {lean.longer_wins.n}" if lean.longer_wins else ""
    yield Line("the longer wins", _rate(lean.longer_wins), of)
    yield Line("  log-odds per doubling of length", _slope(lean.slope), _test(lean.slope))
    yield Line("  the same beside people's preference", _slope(lean.controlled), _test(lean.controlled))
    yield Line("  the longer wins where people are tied", _rate(lean.at_parity), "from that fit")


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return NOT_MEASURED
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _estimate(found: Calibrated | None) -> str:
    if found is None:
        return NOT_MEASURED
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _slope(slope: Slope | None) -> str:
    return "no finite value" if slope is None else f"{slope.value:+.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"


def _test(slope: Slope | None) -> str:
    return "" if slope is None else f"p = {slope.p:.2g}, n = {slope.n}"


def _agreement(found: Agreement) -> str:
    if found.raw.value is None:
        return NOT_MEASURED
    alpha = "undefined" if found.alpha is None else f"{found.alpha:.3f}"
    ac1 = "undefined" if found.ac1 is None else f"{found.ac1:.3f}"
    return f"{100 * found.raw.value:.1f} %, α {alpha}, AC1 {ac1}"
