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
    count = sum(len(one.hits) for one in found)
    return pages.render(request, "redteam.html", chats=found[:LISTED], hits=count)


async def begin(request: Request) -> Response:
    """A new conversation."""
    settings = request.app.state.settings.policy
    if settings is None:
        raise HTTPException(404, "No policy is served here.")
    name = request.state.person.name
    number = await pages.in_store(request, chats.start_chat, name, settings.model, pages.now(request))
    return pages.redirect(request, f"/redteam/{number}")


async def show_chat(request: Request) -> Response:
    """One conversation, with scores, hits and the next question."""
    return await render_chat(request)


async def render_chat(request: Request, question: str = "", problem: str = "") -> Response:
    """The page of a conversation; `question` is what got no answer, `problem` why."""
    person = request.state.person
    owner = None if person.role == "lead" else person.name
    found = await pages.in_store(request, chats.chat, request.path_params["number"], owner)
    return pages.render(
        request,
        "redteam_chat.html",
        502 if problem else 200,
        chat=found,
        turns=[(turn, render_text(turn.question), render_text(turn.answer)) for turn in found.turns],
        hits={hit.turn: hit for hit in found.hits},
        taxonomy=request.app.state.project.taxonomy,
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
    found = await pages.in_store(request, chats.chat, number, name)
    busy: set[int] = request.app.state.busy_chats
    if number in busy:
        raise HTTPException(409, "The policy is still answering the question before.")
    busy.add(number)
    try:
        policy = open_once(request)
        turn = await policy.ask(chats.messages_of(found.turns, question))
        place = len(found.turns)
        await pages.in_store(request, chats.add_turn, number, name, turn, place, pages.now(request))
    except EndpointError as error:
        return await render_chat(
            request, question, " ".join(part for part in (error.what, error.why, error.fix) if part)
        )
    finally:
        busy.discard(number)
    return pages.redirect(request, f"/redteam/{number}#next")


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
    """Mark an answer as a hit, or take that back."""
    number, name, now = request.path_params["number"], request.state.person.name, pages.now(request)
    turn, severity = pages.form_text(request, "turn"), pages.form_text(request, "severity")
    if not turn.isascii() or not turn.isdecimal() or int(turn) >= chats.MOST_TURNS:
        raise HTTPException(400, "There is no such answer.")
    if pages.form_text(request, "remove"):
        await pages.in_store(request, chats.unmark_hit, number, name, int(turn), now)
        return pages.redirect(request, f"/redteam/{number}#answer-{turn}")
    category = pages.form_text(request, "category")
    if category not in request.app.state.project.taxonomy.names or severity not in ("", *"0123"):
        raise HTTPException(400, "Choose a category and a severity that the form offers.")
    hit = chats.Hit(
        turn=int(turn),
        category=category,
        severity=int(severity) if severity else None,
        note=pages.form_text(request, "note"),
    )
    await pages.in_store(request, chats.mark_hit, number, name, hit, now)
    return pages.redirect(request, f"/redteam/{number}#answer-{turn}")


async def download_hits(request: Request) -> Response:
    """Every hit with its transcript, answer, scores and what is wrong with it."""
    found = await pages.in_reports(request, chats.hits)
    return json_lines("hits.jsonl", [hit.model_dump_json() for hit in found])


async def download_prompts(request: Request) -> Response:
    """Every hit as a prompt, as the stages read them."""
    found = await pages.in_reports(request, chats.hits)
    prompts = {hit.prompt.id: hit.prompt for hit in found}
    return json_lines("prompts.jsonl", [prompt.model_dump_json() for prompt in prompts.values()])


def json_lines(name: str, lines: Sequence[str]) -> Response:
    """A file to save."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response("".join(f"{line}\n" for line in lines), media_type="application/jsonl", headers=headers)
