"""Who may do what: sessions, roles, forged forms, floods, headers. All of it runs before a page's own code.

Default is no: a path that is not listed as open needs a signed-in person, one below `/lead` a lead, and every
request that changes something the session's CSRF token. What decides is the path that routing sees, never a URL
put together with the Host header, which whoever asks has written. How one signs in is in `signin`.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.annotate.store import people
from equipoise.annotate.web import pages
from equipoise.errors import StoreError

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
OPEN_PATHS = ("/signin", "/join/")
LEAD_PATHS = "/lead"
UPLOAD_PATH = "/lead/import"
FORM_BYTES = 2**20
UPLOAD_BYTES = 2**28
FORM_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
"""Within which a body has to arrive: a sender that never ends holds no place for ever."""
READING = ("GET", "HEAD")

SIGNIN_WINDOW = 600.0
FAILURES_PER_ACCOUNT = 10
FAILURES_PER_ADDRESS = 100
MOST_KEYS = 10_000


def cookie_name(project: Path) -> str:
    """Of its own for each project: a browser shares cookies between all ports of a machine."""
    return f"equipoise_{hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:8]}"


@dataclass
class Window:
    """At most `most` events per key in `seconds`; forgets what is older, and the longest known keys first."""

    most: int
    seconds: float
    _events: dict[str, deque[float]] = field(default_factory=dict)

    def wait(self, key: str, now: float) -> float:
        """Seconds until one more is allowed; 0 if it is. A clock that went backwards forgets what lay ahead."""
        events = self._events.get(key, deque())
        while events and not now - self.seconds < events[0] <= now:
            events.popleft()
        return 0.0 if len(events) < self.most else events[0] + self.seconds - now

    def add(self, key: str, now: float) -> None:
        """Count one."""
        self._events.setdefault(key, deque()).append(now)
        while len(self._events) > MOST_KEYS:
            self._events.pop(next(iter(self._events)))

    def take_back(self, key: str) -> None:
        """Forget the latest."""
        if self._events.get(key):
            self._events[key].pop()


class Limits:
    """What one account or address may do in a while."""

    def __init__(self, posts_per_minute: int) -> None:
        self.posts = Window(posts_per_minute, 60.0)
        self.account = Window(FAILURES_PER_ACCOUNT, SIGNIN_WINDOW)
        self.address = Window(FAILURES_PER_ADDRESS, SIGNIN_WINDOW)


class Guard:
    """ASGI middleware: lets a request through to its page, or answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.small = RequestBodyLimitMiddleware(self.admit, FORM_BYTES)
        self.large = RequestBodyLimitMiddleware(self.admit, UPLOAD_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers, open the session, and bound the body by what the person may send."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        is_static = scope["path"].startswith("/static/")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                add_headers(headers)
                if is_static:
                    headers["cache-control"] = "no-cache"
                for cookie in getattr(request.state, "cookies", []):
                    headers.append("set-cookie", cookie)
            await send(message)

        if is_static:
            await self.app(scope, receive, send_guarded)
            return
        try:
            await open_session(request)
        except StoreError as error:  # not inside the part that shows refusals
            await (await pages.show_refusal(request, error))(scope, receive, send_guarded)
            return
        person = request.state.person
        is_upload = person and person.role == "lead" and scope["path"] == UPLOAD_PATH
        await (self.large if is_upload else self.small)(scope, receive, send_guarded)

    async def admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse it, or read its form into `request.state.form` and hand it on."""
        request = Request(scope, receive)
        refusal = refuse_by_role(request) or refuse_flood(request)
        if refusal is not None or request.method in READING:
            await (refusal or self.app)(scope, receive, send)
            return
        try:
            form = await read_form(request)
        except HTTPException as error:  # broken, too large or too slow
            await (await pages.show_http_error(request, error))(scope, receive, send)
            return
        except ClientDisconnect:  # nobody is left to be answered
            return
        request.state.form = form
        try:
            await (refuse_forged(request, form) or self.app)(scope, receive, send)
        finally:
            await form.close()  # uploads lie in temporary files


def add_headers(headers: MutableHeaders) -> None:
    """What every answer says to the browser, errors included."""
    headers.update({**HEADERS, "cache-control": "no-store"})


async def show_failure(request: Request, error: Exception) -> Response:
    """The page of a mistake of ours: it is shown outside the guard, and guarded all the same."""
    response = await pages.show_failure(request, error)
    add_headers(response.headers)
    return response


async def read_form(request: Request) -> FormData:
    """The form that was sent.

    Raises:
        HTTPException: It is broken or too large (400, 413), comes too slowly (408), or the disk is full (507).
        ClientDisconnect: Its sender went away.
    """
    is_upload = request.scope["path"] == UPLOAD_PATH
    try:
        async with asyncio.timeout(UPLOAD_SECONDS if is_upload else FORM_SECONDS):
            return await request.form()
    except TimeoutError:
        raise HTTPException(408, "The form did not arrive in time.") from None
    except OSError as error:  # a large upload is kept in a temporary file
        raise HTTPException(507, f"The upload cannot be kept: {error.strerror}.") from error


async def open_session(request: Request) -> None:
    """Set `request.state.person` (None: nobody is signed in), `csrf` and `session_token`."""
    token = request.cookies.get(request.app.state.cookie, "")
    now = pages.now(request)
    session = await pages.in_store(request, people.session, token, now) if token else None
    name = proxied_name(request)
    if name is not None and (session is None or session.person.name != name):
        known = await pages.in_store(request, people.person, name)
        if known is None or not known.is_active:  # the proxy knows somebody who was not invited
            request.state.stranger, session = name, None
        else:
            token = await pages.in_store(request, people.start_session, name, now)
            session = await pages.in_store(request, people.session, token, now)
            set_session_cookie(request, token)
    request.state.person = session.person if session else None
    request.state.csrf = session.csrf if session else visitor_csrf(request)
    request.state.session_token = token if session else ""


def is_from_proxy(request: Request) -> bool:
    """Whether the request comes from the proxy that the settings trust."""
    settings = request.app.state.settings
    return (
        bool(settings.behind_proxy)
        and request.client is not None
        and (request.client.host == settings.proxy_address)
    )


def proxied_name(request: Request) -> str | None:
    """Whom the proxy says it is; None without a proxy, or from anywhere else."""
    if not is_from_proxy(request):
        return None
    values = request.headers.getlist(request.app.state.settings.behind_proxy)
    if len(values) != 1:
        return None
    try:
        name = values[0].encode("latin-1").decode("utf-8")  # headers are bytes, read as Latin-1 by the server
    except UnicodeDecodeError:
        name = values[0]
    return people.normal_name(name) or None


def address(request: Request) -> str:
    """Where the request comes from: the peer, or the last hop that the trusted proxy names."""
    peer = request.client.host if request.client else ""
    if is_from_proxy(request) and (hops := request.headers.get("x-forwarded-for")):
        return hops.rpartition(",")[2].strip()
    return peer


def is_https(request: Request) -> bool:
    """Whether the browser's connection is encrypted, as far as can be known."""
    forwarded = is_from_proxy(request) and request.headers.get("x-forwarded-proto", "") == "https"
    return forwarded or request.url.scheme == "https"


def origin(request: Request) -> str:
    """Scheme, host and port as the browser sees them."""
    return f"{'https' if is_https(request) else 'http'}://{request.headers.get('host', request.url.netloc)}"


def set_cookie(request: Request, name: str, value: str, seconds: float) -> None:
    """Send a cookie that scripts cannot read and other sites cannot use."""
    parts = [f"{name}={value}", "Path=/", f"Max-Age={int(seconds)}", "HttpOnly", "SameSite=Strict"]
    cookies = getattr(request.state, "cookies", [])
    request.state.cookies = [*cookies, "; ".join([*parts, "Secure"] if is_https(request) else parts)]


def set_session_cookie(request: Request, token: str) -> None:
    """Send a new session's token; an empty one ends the browser's session."""
    set_cookie(request, request.app.state.cookie, token, people.SESSION_SECONDS if token else 0)


def visitor_csrf(request: Request) -> str:
    """The token of somebody not signed in: in a cookie that no other site's form can bring, and in our forms."""
    name = f"{request.app.state.cookie}_visitor"
    known = request.cookies.get(name, "")
    if len(known) == 43 and known.replace("-", "").replace("_", "").isalnum():
        return known
    token = secrets.token_urlsafe(32)
    if request.scope["path"].startswith(OPEN_PATHS):
        set_cookie(request, name, token, 3600)
    return token


def refuse_by_role(request: Request) -> Response | None:
    """Nobody signed in, or not the role that the path asks for."""
    path, person = request.scope["path"], request.state.person
    if path.startswith(OPEN_PATHS):
        return None
    if person is None:
        if stranger := getattr(request.state, "stranger", None):
            fix = "Ask your lead to invite you under this name."
            return pages.show_error(
                request, 403, f"You are signed in as {stranger}, who is not in this project.", "", fix
            )
        return pages.redirect("/signin")
    if path.startswith(LEAD_PATHS) and person.role != "lead":  # a route's `$` lets a line end follow
        return pages.show_error(request, 403, "This page is for leads.")
    return None


def refuse_flood(request: Request) -> Response | None:
    """More changes from one account than a person, or a script of theirs, has a use for."""
    if request.method in READING or request.state.person is None:
        return None
    posts, name, now = request.app.state.limits.posts, request.state.person.name, pages.now(request)
    if wait := posts.wait(name, now):
        return too_many(request, wait)
    posts.add(name, now)
    return None


def too_many(request: Request, wait: float) -> Response:
    """Answer 429, saying when to come again."""
    minutes = f"Try again in {max(1, round(wait / 60))} minute(s)."
    response = pages.show_error(request, 429, "Too many attempts.", fix=minutes)
    response.headers["retry-after"] = str(int(wait) + 1)
    return response


def refuse_forged(request: Request, form: FormData) -> Response | None:
    """A change without this session's token, or sent by a page of another site."""
    given = request.headers.get("x-csrf-token") or form.get("csrf")
    expected = request.state.csrf
    is_ours = request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    if is_ours and isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode()):
        return None
    return pages.show_error(
        request, 403, "This form is out of date.", fix="Go back, reload the page and send it again."
    )
