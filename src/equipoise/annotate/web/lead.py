"""The lead's pages on how the project stands: progress, agreement, and the way to the items behind each number.

Items, people and files have their own modules; who counts as a lead is in `security`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.store import overview
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.progress import PersonProgress, people_progress
from equipoise.annotate.web import lead_files, lead_items, lead_team, pages, reports

if TYPE_CHECKING:
    from equipoise.annotate.agreement import Agreement

DAYS = 28
RATE_DAYS = 7


def routes() -> Sequence[Route]:
    """All pages below /lead."""
    return (
        Route("/lead", show_progress),
        Route("/lead/progress", show_progress),
        Route("/lead/agreement", show_agreement),
        Route("/lead/agreement/labellers", show_labellers),
        *lead_items.routes(),
        *lead_team.routes(),
        *lead_files.routes(),
    )


class Forecast(NamedTuple):
    """When all answers will be there. `days` is None where nobody has answered in the last week."""

    left: int
    per_day: float
    days: float | None


class Progress(NamedTuple):
    """How far the project is."""

    sets: list[overview.SetProgress]
    people: list[PersonProgress]
    last_week: dict[str, int]
    by_day: list[int]
    forecast: Forecast


async def show_progress(request: Request) -> Response:
    """Per item set and per labeller: what is done, how fast, and when the rest will be."""
    now, overlap = pages.now(request), request.app.state.project.config.overlap
    progress = await pages.in_reports(request, read_progress, overlap, now)
    peak = max(progress.by_day, default=0)
    return pages.render(
        request, "lead_progress.html", progress=progress, overlap=overlap, peak=peak, now=now, days=DAYS
    )


def read_progress(store: Store, overlap: int, now: float) -> Progress:
    """Everything on the page of progress, of one moment."""
    with store.snapshot():
        sets = overview.sets(store, overlap)
        by_day = overview.answers_by_day(store, now, DAYS)
        return Progress(
            sets,
            people_progress(store),
            overview.answered_since(store, now - RATE_DAYS * 86400),
            by_day,
            forecast(sum(one.items * overlap - one.answers for one in sets), by_day),
        )


def forecast(left: int, by_day: Sequence[int]) -> Forecast:
    """Days until `left` more answers, at the pace of the last 7 days, or of as many as there has been work for.

    Args:
        left: Answers still to come.
        by_day: Answers in each of the last days, today's last.
    """
    recent = list(by_day[-RATE_DAYS:])
    while recent and recent[0] == 0:
        recent.pop(0)
    per_day = sum(recent) / len(recent) if recent else 0.0
    return Forecast(left, per_day, left / per_day if per_day else None)


async def show_agreement(request: Request) -> Response:
    """Agreement per question and per category, and where the two preferences part."""
    whom = pages.query_choice(request, "whom", reports.KINDS) or "people"
    report = await pages.in_reports(request, request.app.state.reports.get, whom)
    return pages.render(
        request,
        "lead_agreement.html",
        report=report,
        whom=whom,
        kinds=reports.KINDS,
        relations=reports.RELATIONS,
        labels={category.name: category.label for category in request.app.state.project.taxonomy.categories},
    )


async def show_labellers(request: Request) -> Response:
    """Agreement of each pair of labellers on one question."""
    whom = pages.query_choice(request, "whom", reports.KINDS) or "people"
    question = pages.query_choice(request, "question", reports.QUESTIONS) or "safety"

    def measure(store: Store) -> "tuple[reports.Report, dict[tuple[str, str], Agreement]]":
        report: reports.Report = request.app.state.reports.get(store, whom)
        return report, reports.measure_labellers(report, question)

    report, pairs = await pages.in_reports(request, measure)
    return pages.render(
        request,
        "lead_labellers.html",
        report=report,
        pairs=pairs,
        whom=whom,
        question=question,
    )
