"""The labeller's screen: one item at a time, one step per request, every step kept before it is answered.

With the header `X-Part` (the item on the screen) only the
part that changed is sent: the panel, or all of it where the item is another. What a request does
is in `moment`, how it looks in `panel`, what texts become in `rendering`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from equipoise.annotate.store import people, queue
from equipoise.annotate.store import project as projects
from equipoise.annotate.store.progress import progress
from equipoise.annotate.web import options, pages, security
from equipoise.annotate.web.answers import LETTERS, read_steps
from equipoise.annotate.web.moment import (
    Blur,
    Moment,
    Sent,
    begin,
    give_up,
    sheet_of,
    take_back,
    take_steps,
)
from equipoise.annotate.web.panel import build_panel
from equipoise.annotate.web.rendering import render_text, show_hidden
from equipoise.errors import StoreError

SKIP_REASONS = (
    "I cannot judge this",
    "I would rather not see this",
    "Not in a language I read well",
    "Broken, or no question at all",
)
SHOWN, RESTED = "eq_shown", "eq_rested"
"""Cookies: the item whose blurred responses are shown, or all; when a break was last suggested and seen."""
DAY = 86400.0
LONGEST_NOTE = 5000
KEY_NAMES = {"Backspace": "⌫", "ArrowLeft": "←", "ArrowRight": "→"}
SPEAKERS = {"system": "Instructions to the assistant", "user": "User", "assistant": "Assistant"}


def routes() -> Sequence[Route]:
    """The screen and its steps."""
    posts = {"": step, "undo": undo, "skip": skip, "flag": note, "comment": note, "show": show_harmful}
    return (
        Route("/label", show),
        Route("/label/response", show_whole),
        Route("/label/rested", rested, methods=["POST"]),
        *(Route(f"/label/{name}".rstrip("/"), handler, methods=["POST"]) for name, handler in posts.items()),
    )


async def show(request: Request) -> Response:
    """The open item or the next one; `item` asks for one in hand, `ask` goes to one of its questions."""
    item, ask = request.query_params.get("item", ""), request.query_params.get("ask", "")
    moment = await _ask(request, begin, item)
    return await _page(request, moment, int(ask) if ask.isdecimal() and len(ask) < 3 else None)


async def step(request: Request) -> Response:
    """Take one step, or several; `send` finishes a complete item."""
    return await _page(request, await _ask(request, take_steps, _item(request), _sent(request)))


async def undo(request: Request) -> Response:
    """Take the last step back, or the last item."""
    return await _page(request, await _ask(request, take_back, _item(request), _sent(request)))


async def skip(request: Request) -> Response:
    """Give the item back for good."""
    return await _page(request, await _ask(request, give_up, _item(request), pages.form_text(request, "reason")))


async def note(request: Request) -> Response:
    """Keep a flag or a comment; the answers stay as they are."""
    kind: queue.NoteKind = "flag" if request.scope["path"].startswith("/label/flag") else "comment"
    now, item, text = pages.now(request), _item(request), pages.form_text(request, "text", LONGEST_NOTE)
    message, name = "", request.state.person.name
    try:
        await pages.in_store(request, queue.add_note, name, item, kind, text, now)
    except StoreError as error:
        message = error.in_words()
    found = await _ask(request, begin, item)
    said = "" if message else f"{kind.capitalize()} kept."
    message = found.message or message
    return await _page(request, Moment(found.work, found.steps, said, message, 400 if message else 200))


async def show_harmful(request: Request) -> Response:
    """Show the blurred responses of this item, or of all until the next break."""
    moment = await _ask(request, begin, _item(request))
    if moment.work and not moment.message:
        much = "all" if _field(request, "much") == "all" else moment.work.item.id
        seconds = 60 * request.app.state.project.config.break_after_minutes
        security.set_cookie(request, SHOWN, much, seconds)
        request.cookies[SHOWN] = much
    return await _page(request, moment, whole=True)


async def rested(request: Request) -> Response:
    """The labeller has seen the suggestion of a break: the next one is a full stretch away."""
    request.cookies[RESTED] = rested = f"{pages.now(request):.0f}"
    security.set_cookie(request, RESTED, rested, DAY)
    return await _page(request, await _ask(request, begin, _item(request)), whole=True)


async def show_whole(request: Request) -> Response:
    """A response as plain text, however long; only of an item in hand."""
    item, place = request.query_params.get("item", ""), request.query_params.get("place", "")
    work = await pages.in_store(request, queue.open_item, request.state.person.name, item, pages.now(request))
    if place not in [str(number) for number in range(len(work.shown))]:
        return pages.show_error(request, 404, "There is no such response.")
    return PlainTextResponse(show_hidden(work.item.responses[work.shown[int(place)]]))


async def _ask(request: Request, function: Callable[..., Moment], *values: Any) -> Moment:
    project, name, now = request.app.state.project, request.state.person.name, pages.now(request)
    return await pages.in_store(request, function, project, name, *values, now)


def _field(request: Request, name: str) -> str:
    value = request.state.form.get(name, "")
    return value if isinstance(value, str) else ""


def _item(request: Request) -> str:
    return _field(request, "item")


def _sent(request: Request) -> Sent:
    form, at = request.state.form, _field(request, "at")
    return Sent(
        at=int(at) if at.isdecimal() and len(at) < 5 else -1,
        steps=tuple(value for value in form.getlist("step") if isinstance(value, str)),
        is_final="send" in form,
        sends_itself=options.option(request, "send") == "auto",
        blur=_blur(request),
    )


async def _page(request: Request, moment: Moment, ask: int | None = None, *, whole: bool = False) -> Response:
    """The panel alone where the browser has the rest, or the whole screen."""
    part, work = request.headers.get("x-part"), moment.work
    if part is None and request.method == "POST" and not moment.message:
        return pages.redirect(f"/label?item={work.item.id}" if work else "/label")
    context: dict[str, Any] = {"work": work, "said": moment.said, "message": moment.message, "is_blurred": False}
    if work:
        project = request.app.state.project
        sheet = sheet_of(project, work)
        panel = build_panel(sheet, read_steps(sheet, moment.steps), project.taxonomy, ask)
        now = next((section.number for section in panel.sections if section.is_now), len(panel.sections))
        context |= {"panel": panel, "at": len(moment.steps), "before": now - 1, "after": now + 1}
        context |= {"skip_reasons": SKIP_REASONS, "key_name": lambda key: KEY_NAMES.get(key, _cap(key))}
        if part == work.item.id and not whole:
            return pages.render(request, "label_panel.html", moment.status, **context)
        context |= await _texts(request, work)
    context |= await _surroundings(request)
    template = "label.html" if part is None else "label_work.html"
    return pages.render(request, template, moment.status, **context)


async def _texts(request: Request, work: queue.Work) -> dict[str, Any]:
    """The conversation and the responses in the order shown."""
    messages = work.item.prompt.messages
    texts = [*(turn.content for turn in messages), *(work.item.responses[at] for at in work.shown)]
    rendered = await run_in_threadpool(lambda: [render_text(text) for text in texts])
    count = len(messages)
    turns = [
        {"role": turn.role, "who": SPEAKERS[turn.role], "html": text.html}
        for turn, text in zip(messages, rendered[:count], strict=True)
    ]
    responses = [{"letter": LETTERS[at], **text._asdict()} for at, text in enumerate(rendered[count:])]
    return {"turns": turns, "responses": responses, "is_blurred": _blur(request).hides(work)}


def _blur(request: Request) -> Blur:
    wish = options.option(request, "blur")
    if wish == "project":
        wish = "harmful" if request.app.state.project.config.blur_harmful else "never"
    return Blur(wish, request.cookies.get(SHOWN, ""))


async def _surroundings(request: Request) -> dict[str, Any]:
    """Progress, guideline, and whether a break is due."""
    name, now = request.state.person.name, pages.now(request)
    guideline = await pages.in_store(request, projects.guideline)
    found = await pages.in_store(request, progress, name, now)
    rested = request.cookies.get(RESTED, "")
    since = max(found.working_since or now, float(rested) if rested.isdecimal() else 0.0)
    minutes = (now - since) / 60
    is_due = minutes >= request.app.state.project.config.break_after_minutes
    return {
        "guideline": guideline,
        "guideline_html": render_text(guideline.text, keeps_lines=False).html,
        "progress": found,
        "declined": await pages.in_store(request, people.declined, name),
        "break_minutes": round(minutes) if is_due else 0,
        "keys": options.option(request, "keys"),
    }


def _cap(key: str) -> str:
    """A key as it is written on its control."""
    return f"⇧{key}" if len(key) == 1 and key.isupper() else key.upper() if len(key) == 1 else key
