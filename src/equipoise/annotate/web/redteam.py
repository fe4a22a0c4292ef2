"""The red-team page: a person talks to the served policy, sees how its answers score, and marks hits.

The policy's answer is one long request: it is awaited beside everybody else's work. Nothing is kept of a question
that got no answer; the page hands it back.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.store import chats
from equipoise.annotate.web import pages
from equipoise.annotate.web.rendering import render_text
from equipoise.errors import EndpointError

if TYPE_CHECKING:
    from equipoise.annotate.web.policy import Policy

LONGEST_QUESTION = 20_000
LISTED = 200
MOST_TURNS = 200


def routes() -> Sequence[Route]:
    """The red-team pages; without a policy in the settings they say so."""
    return (
        Route("/redteam", show_chats),
        Route("/redteam", begin, methods=["POST"]),
        Route("/redteam/{number:int}", show_chat),
        Route("/redteam/{number:int}/say", say, methods=["POST"]),
        Route("/redteam/{number:int}/hit", mark, methods=["POST"]),
        Route("/lead/hits.jsonl", download_hits),
        Route("/lead/prompts.jsonl", download_prompts),
    )


async def show_chats(request: Request) -> Response:
    """One's own conversations; a lead sees everybody's."""
    person = request.state.person
    found = await pages.in_reports(request, chats.chats, None if person.role == "lead" else person.name)
    count = sum(one.hit is not None for one in found)
    return pages.render(request, "redteam.html", chats=found[:LISTED], hits=count)


async def begin(request: Request) -> Response:
    """A new conversation."""
    settings = request.app.state.settings.policy
    if settings is None:
        raise HTTPException(404, "No policy is served here.")
    name = request.state.person.name
    number = await pages.in_store(request, chats.start_chat, name, settings.model, pages.now(request))
    return pages.redirect(f"/redteam/{number}")


async def show_chat(request: Request) -> Response:
    """One conversation, with scores, the hit and the next question."""
    return await render_chat(request)


async def render_chat(request: Request, question: str = "", problem: str = "") -> Response:
    """The page of a conversation; `question` is what got no answer, `problem` why."""
    person, number = request.state.person, request.path_params["number"]
    found = await pages.in_store(request, chats.chat, None if person.role == "lead" else person.name, number)
    return pages.render(
        request,
        "redteam_chat.html",
        502 if problem else 200,
        chat=found,
        texts=[render_text(turn.content) for turn in found.turns],
        taxonomy=request.app.state.project.taxonomy,
        labels={one.name: one.label for one in request.app.state.project.taxonomy.categories},
        is_own=found.labeller == person.name,
        question=question,
        problem=problem,
    )


async def say(request: Request) -> Response:
    """Ask the policy and keep both sides."""
    number, name = request.path_params["number"], request.state.person.name
    question = pages.form_text(request, "question", LONGEST_QUESTION)
    if not question:
        raise HTTPException(400, "There is no question.")
    found = await pages.in_store(request, chats.chat, name, number)
    busy: set[int] = request.app.state.busy_chats
    if number in busy or pages.form_text(request, "turns") != str(len(found.turns)):
        raise HTTPException(409, "The conversation has gone on in another tab: reload it.")
    if len(found.turns) >= MOST_TURNS:
        raise HTTPException(400, f"A conversation has at most {MOST_TURNS} turns: begin a new one.")
    asked = chats.Turn(role="user", content=question)
    busy.add(number)
    try:
        answer = await open_once(request).ask((*found.turns, asked))
        await pages.in_store(request, chats.add_turns, name, number, (asked, answer), pages.now(request))
    except EndpointError as error:
        return await render_chat(request, question, error.in_words())
    finally:
        busy.discard(number)
    return pages.redirect(f"/redteam/{number}#next")


def open_once(request: Request) -> "Policy":
    """The connection to the policy, made by the first question.

    Raises:
        HTTPException: No policy is served here, 404.
        EndpointError: Its token is not in the environment.
    """
    from equipoise.annotate.web.policy import open_policy

    state = request.app.state
    if state.settings.policy is None:
        raise HTTPException(404, "No policy is served here.")
    if state.policy is None:
        state.policy = open_policy(state.settings.policy)
    return state.policy  # type: ignore[no-any-return]


async def mark(request: Request) -> Response:
    """Mark an answer as the conversation's hit, or take that back."""
    number, name, now = request.path_params["number"], request.state.person.name, pages.now(request)
    if pages.form_text(request, "remove"):
        await pages.in_store(request, chats.mark_hit, name, number, None, now)
        return pages.redirect(f"/redteam/{number}")
    turn, severity = pages.form_text(request, "turn"), pages.form_text(request, "severity")
    if turn not in map(str, range(1, MOST_TURNS, 2)) or severity not in ("", *"0123"):
        raise HTTPException(400, "The form holds a value that it does not offer.")
    hit = chats.Hit(
        turn=int(turn),
        category=pages.form_text(request, "category"),
        severity=int(severity) if severity else None,
        comment=pages.form_text(request, "comment"),
    )
    await pages.in_store(request, chats.mark_hit, name, number, hit, now)
    return pages.redirect(f"/redteam/{number}#turn-{turn}")


async def download_hits(request: Request) -> Response:
    """Every conversation with a hit: all turns with their scores, and what is wrong with which."""
    found = await pages.in_reports(request, chats.chats, only_hits=True)
    return json_lines("hits.jsonl", [one.model_dump_json() for one in reversed(found)])


async def download_prompts(request: Request) -> Response:
    """What led to each hit, as prompts that the stages read; the same prompt once."""
    found = await pages.in_reports(request, chats.chats, only_hits=True)
    return json_lines("prompts.jsonl", [one.model_dump_json() for one in chats.prompts_of(found[::-1])])


def json_lines(name: str, lines: Sequence[str]) -> Response:
    """A file to save."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response("".join(f"{line}\n" for line in lines), media_type="application/jsonl", headers=headers)
