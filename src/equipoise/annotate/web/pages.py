"""What every page needs: templates, the database beside the event loop, errors in words.

No page of its own but the one that shows an error.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import urlencode

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from equipoise import __version__
from equipoise.annotate.store.core import Store
from equipoise.annotate.web.rendering import show_hidden
from equipoise.errors import EquipoiseError

HERE = Path(__file__).parent
P = ParamSpec("P")
ResultT = TypeVar("ResultT")
ChoiceT = TypeVar("ChoiceT", bound=str)
InStore = Callable[Concatenate[Store, P], ResultT]
LOG = "equipoise.annotate"


class Desk:
    """Threads beside the event loop: one connection for everybody's small steps, one for a lead's long reads.

    One thread for all writes is no bottleneck, as SQLite lets one writer in at a time anyway, and nobody waits
    for a lock. Long reads have their own, so that no labeller waits for a statistic. Passwords are hashed by two
    more, so that a flood of sign-ins takes 32 MiB and neither the pages nor the database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stores: dict[str, Store] = {}
        self._pools = {name: ThreadPoolExecutor(1, f"store-{name}") for name in ("steps", "reports")}
        self._hashing = ThreadPoolExecutor(2, "passwords")

    async def ask(
        self, name: Literal["steps", "reports"], function: InStore[P, ResultT], *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """What `function(store, …)` returns."""

        def work() -> ResultT:
            if name not in self._stores:
                self._stores[name] = Store(self._path)
            return function(self._stores[name], *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pools[name], work)

    async def hash(self, function: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
        """What a function of `passwords` returns."""
        return await asyncio.get_running_loop().run_in_executor(self._hashing, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Close the connections, each in its own thread, after what is under way."""
        self._hashing.shutdown()
        for name, pool in self._pools.items():
            if store := self._stores.pop(name, None):
                pool.submit(store.close).result()
            pool.shutdown()


def open_templates() -> jinja2.Environment:
    """The templates: everything is escaped, an unknown name is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= {"percent": percent, "day": day, "moment": moment, "span": span, "excerpt": excerpt}
    templates.globals["link"] = link
    return templates


def percent(share: float | None) -> str:
    """A share, 69.0 %; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def moment(seconds: float | None) -> str:
    """A time to the minute, in UTC; a dash for none."""
    return "–" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def day(seconds: float) -> str:
    """A date, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%a %d %b}"


def span(seconds: float | None) -> str:
    """A length of time in its two largest useful units; a dash for none."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return (
        f"{minutes} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
        if minutes < 2880
        else f"{minutes / 1440:.1f} days"
    )


def excerpt(text: str, most: int = 120) -> str:
    """The beginning of a text on one line, with what hides or reorders it shown by name."""
    line = show_hidden(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def link(path: str, **query: object) -> str:
    """A path with those parts of the query that are set."""
    chosen = {name: value for name, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(chosen)}" if chosen else path


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page from a template, which also sees `request`, `person` (or None), `csrf`, `project` and `settings`."""
    state = request.app.state
    page = state.templates.get_template(template).render(
        request=request,
        path=request.scope["path"],
        person=getattr(request.state, "person", None),
        csrf=getattr(request.state, "csrf", ""),
        project=state.project,
        settings=state.settings,
        version=__version__,
        **context,
    )
    return HTMLResponse(page, status)


def now(request: Request) -> float:
    """Seconds since 1970 by the app's clock."""
    return float(request.app.state.clock())


async def in_store(request: Request, function: InStore[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
    """What `function(store, …)` returns; for anything that takes milliseconds, and for all writes."""
    desk: Desk = request.app.state.desk
    return await desk.ask("steps", function, *args, **kwargs)


async def in_reports(
    request: Request, function: InStore[P, ResultT], *args: P.args, **kwargs: P.kwargs
) -> ResultT:
    """As `in_store`, for a read that may take longer: it keeps nobody waiting."""
    desk: Desk = request.app.state.desk
    return await desk.ask("reports", function, *args, **kwargs)


def redirect(path: str) -> Response:
    """Send the browser to another page of ours."""
    return RedirectResponse(path, 303)


def show_error(request: Request, status: int, title: str, detail: str = "", fix: str = "") -> Response:
    """An error in words, as a page."""
    return render(request, "error.html", status, heading=title, detail=detail, fix=fix)


async def show_http_error(request: Request, error: Exception) -> Response:
    """The page of a plain HTTP error."""
    assert isinstance(error, HTTPException)
    titles = {404: "There is no such page.", 405: "This page cannot be used that way."}
    response = show_error(request, error.status_code, titles.get(error.status_code, error.detail))
    response.headers.update(error.headers or {})
    return response


async def show_refusal(request: Request, error: Exception) -> Response:
    """The page of something refused; where it happened names the server's files, and is left out."""
    assert isinstance(error, EquipoiseError)
    return show_error(request, 400, error.what, error.why, error.fix)


async def show_failure(request: Request, error: Exception) -> Response:
    """The page of a mistake of ours: no details for whoever asked, all of them in the log."""
    logging.getLogger(LOG).error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return show_error(
        request, 500, "Something went wrong on the server.", fix="Reload the page, or tell your lead."
    )


def query_choice(request: Request, name: str, choices: Collection[ChoiceT]) -> ChoiceT | None:
    """A part of the query that must be one of these, if it is there.

    Raises:
        HTTPException: It is another, 400.
    """
    value = request.query_params.get(name)
    found = next((choice for choice in choices if choice == value), None)
    if found is None and value:
        raise HTTPException(400, f"{name} cannot be {value!r}.")
    return found


def query_number(request: Request, name: str, default: int, most: int = 10**9) -> int:
    """A part of the query that must be a whole number from 0 on.

    Raises:
        HTTPException: It is not, 400.
    """
    value = request.query_params.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 12 and int(value) <= most):
        raise HTTPException(400, f"{name} cannot be {value!r}.")
    return int(value)


def form_text(request: Request, name: str, most: int = 2000) -> str:
    """A field of the form as text, without space around it.

    Raises:
        HTTPException: It is a file, or longer than `most` characters, 400.
    """
    value = request.state.form.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise HTTPException(400, f"{name} must be a text of at most {most} characters.")
    return value.strip()
