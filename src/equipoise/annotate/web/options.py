"""What a labeller chooses for themselves: looks, keys, sending, blur, categories to leave out.

Looks and habits live in cookies of the browser, as they belong to a screen; declined categories live in the
project. Whatever a cookie holds that is no known choice counts as the default.
"""

from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.store import people
from equipoise.annotate.web import pages, security

YEAR = 365 * 86400.0


class Choice(NamedTuple):
    """One option: its cookie, its words, and its values with theirs; the first is the default."""

    name: str
    title: str
    values: tuple[tuple[str, str], ...]
    hint: str = ""


CHOICES = (
    Choice("theme", "Colors", (("auto", "as the system"), ("light", "light"), ("dark", "dark"))),
    Choice("size", "Text", (("1", "normal"), ("0", "small"), ("2", "large"), ("3", "larger"), ("4", "largest"))),
    Choice(
        "send",
        "Sending",
        (("auto", "with the last answer"), ("ask", "when I press Enter")),
        "Undo takes a sent item back either way.",
    ),
    Choice(
        "keys",
        "Keys",
        (("on", "single keys"), ("off", "none")),
        "Switch them off for speech input or a screen reader's own keys.",
    ),
    Choice(
        "blur",
        "Blur responses",
        (("project", "where the prompt is known to be harmful"), ("always", "always"), ("never", "never")),
        "A blurred text shows when you ask for it.",
    ),
)


def routes() -> Sequence[Route]:
    """The page of options."""
    return (Route("/options", show_options), Route("/options", save_options, methods=["POST"]))


def option(request: Request, name: str) -> str:
    """The value chosen, or the default."""
    choice = next(choice for choice in CHOICES if choice.name == name)
    value = request.cookies.get(f"eq_{name}", "")
    return value if value in dict(choice.values) else choice.values[0][0]


async def show_options(request: Request) -> Response:
    """The page."""
    return await _page(request, said="")


async def save_options(request: Request) -> Response:
    """Keep what was chosen."""
    form = request.state.form
    for choice in CHOICES:
        value = form.get(choice.name, "")
        if value in dict(choice.values):
            security.set_cookie(request, f"eq_{choice.name}", value, YEAR)
            request.cookies[f"eq_{choice.name}"] = value
    if "categories" in form:
        known = set(request.app.state.project.taxonomy.names)
        declined = {value for value in form.getlist("declined") if isinstance(value, str)} & known
        await pages.in_store(request, people.decline, request.state.person.name, declined, pages.now(request))
    return await _page(request, said="Kept.")


async def _page(request: Request, said: str) -> Response:
    declined = await pages.in_store(request, people.declined, request.state.person.name)
    chosen = {choice.name: option(request, choice.name) for choice in CHOICES}
    return pages.render(request, "options.html", choices=CHOICES, chosen=chosen, declined=declined, said=said)
