"""The lead's pages on people: who may sign in, what they are told, and who did what.

Links are shown once and kept nowhere; names are in no export but under the name itself until erased.
"""

import csv
import difflib
import io
import json
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.store import journal, overview, people, project
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.progress import PersonProgress, people_progress
from equipoise.annotate.web import pages, security
from equipoise.annotate.web.lead_items import score_gold
from equipoise.annotate.web.rendering import render_text

ROLES: tuple[people.Role, ...] = ("labeller", "lead")
LONGEST_GUIDELINE = 200_000
ENTRIES_PER_PAGE = 100
MOST_DOWNLOADED = 1_000_000


def routes() -> Sequence[Route]:
    """People, guideline and audit log."""
    return (
        Route("/lead/people", show_people),
        Route("/lead/people/invite", invite, methods=["POST"]),
        Route("/lead/people/change", change_person, methods=["POST"]),
        Route("/lead/guideline", show_guideline),
        Route("/lead/guideline", save_guideline, methods=["POST"]),
        Route("/lead/audit", show_audit),
        Route("/lead/audit.csv", download_audit),
    )


async def show_people(request: Request) -> Response:
    """Everybody, with their work and their accuracy on gold items."""
    return await render_people(request)


async def render_people(request: Request, link: str = "", invited: str = "") -> Response:
    """The page of people, with a new link if one was just made."""

    def read(
        store: Store,
    ) -> tuple[list[people.Person], dict[str, PersonProgress], dict[str, tuple[int, int, int]]]:
        with store.snapshot():
            work = {one.name: one for one in people_progress(store)}
            return people.people(store), work, score_gold(store)[1]

    everybody, work, scores = await pages.in_reports(request, read)
    return pages.render(
        request,
        "lead_people.html",
        people=everybody,
        work=work,
        scores=scores,
        personal_link=link,
        invited=invited,
    )


async def invite(request: Request) -> Response:
    """Make a personal link and show it, this once."""
    name, role = pages.form_text(request, "name", people.LONGEST_NAME), pages.form_text(request, "role")
    if role not in ROLES:
        raise HTTPException(400, f"There is no role {role!r}.")
    by, now = request.state.person.name, pages.now(request)
    token = await pages.in_store(request, people.invite, name, role, now, by=by)
    return await render_people(request, f"{security.origin(request)}/join/{token}", name)


async def change_person(request: Request) -> Response:
    """Close or open an account, or erase a name."""
    name, action = pages.form_text(request, "name"), pages.form_text(request, "action")
    by, now = request.state.person.name, pages.now(request)
    if name == by:
        raise HTTPException(400, "Nobody closes their own account: ask another lead, or use the command line.")
    if action in ("activate", "deactivate"):
        await pages.in_store(request, people.set_active, name, action == "activate", now, by=by)
    elif action == "erase":
        if pages.form_text(request, "confirm") != name:
            raise HTTPException(400, "To erase a name, type it once more.")
        await pages.in_store(request, people.erase_person, name, now, by=by)
    else:
        raise HTTPException(400, f"There is no action {action!r}.")
    return pages.redirect("/lead/people")


async def show_guideline(request: Request) -> Response:
    """The guideline, its older versions, and what changed."""
    latest = await pages.in_store(request, project.guideline)
    number = pages.query_number(request, "version", latest.version)
    shown = latest if number == latest.version else await pages.in_store(request, project.guideline, number)
    changes: list[str] = []
    if number > 1:
        before = await pages.in_store(request, project.guideline, number - 1)
        lines = difflib.unified_diff(before.text.splitlines(), shown.text.splitlines(), lineterm="", n=1)
        changes = list(lines)[2:]
    return pages.render(
        request,
        "lead_guideline.html",
        guideline=shown,
        latest=latest,
        changes=changes,
        html=render_text(shown.text, keeps_lines=False).html,
    )


async def save_guideline(request: Request) -> Response:
    """Keep a new version, unless somebody else made one meanwhile."""
    text = pages.form_text(request, "text", LONGEST_GUIDELINE).replace("\r\n", "\n") + "\n"
    began_with = pages.form_text(request, "version")
    latest = await pages.in_store(request, project.guideline)
    if began_with != str(latest.version):
        raise HTTPException(409, f"Version {latest.version} was saved meanwhile: reload and merge your changes.")
    await pages.in_store(request, project.save_guideline, text, request.state.person.name, pages.now(request))
    return pages.redirect("/lead/guideline")


async def show_audit(request: Request) -> Response:
    """Who did what when, the newest first."""
    who, what = request.query_params.get("who"), request.query_params.get("what")
    before = pages.query_number(request, "before", 0) or None
    entries = await pages.in_reports(
        request, journal.entries, limit=ENTRIES_PER_PAGE, before=before, who=who or None, what=what or None
    )
    verbs = await pages.in_reports(request, overview.verbs)
    return pages.render(
        request,
        "lead_audit.html",
        entries=entries,
        who=who or "",
        what=what or "",
        verbs=verbs,
        is_full=len(entries) == ENTRIES_PER_PAGE,
    )


async def download_audit(request: Request) -> Response:
    """All of it as CSV; cells that a spreadsheet would run as a formula get an apostrophe in front."""
    entries = await pages.in_reports(request, journal.entries, limit=MOST_DOWNLOADED)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["number", "at", "who", "what", "detail"])
    for entry in entries:
        detail = json.dumps(entry.detail, ensure_ascii=False)
        table.writerow([entry.number, pages.moment(entry.at), _inert(entry.who), entry.what, _inert(detail)])
    return Response(
        text.getvalue(),
        media_type="text/csv",
        headers={"content-disposition": 'attachment; filename="audit.csv"'},
    )


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
