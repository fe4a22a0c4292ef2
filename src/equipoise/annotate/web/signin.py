"""Signing in and out: a personal link that works once, then a password, or only the browser's session.

Sessions themselves are in `security` and `store.people`; inviting is on the lead's page of people.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.store import people
from equipoise.annotate.web import pages, security
from equipoise.errors import StoreError


def routes() -> Sequence[Route]:
    """Pages for whoever is not signed in yet, and the way out."""
    return (
        Route("/signin", show_signin),
        Route("/signin", sign_in, methods=["POST"]),
        Route("/join/{token}", show_invite),
        Route("/join/{token}", accept_invite, methods=["POST"]),
        Route("/signout", sign_out, methods=["POST"]),
    )


async def show_signin(request: Request) -> Response:
    """Name and password."""
    return pages.redirect("/") if request.state.person else pages.render(request, "signin.html", problem="")


async def sign_in(request: Request) -> Response:
    """Check name and password; too many failures of one account or from one address are refused for a while."""
    form, now = request.state.form, pages.now(request)
    name = people.normal_name(pages.form_text(request, "name", people.LONGEST_NAME))
    password = str(form.get("password", ""))
    limits, address = request.app.state.limits, security.address(request)
    if wait := max(limits.account.wait(name, now), limits.address.wait(address, now)):
        return security.too_many(request, wait)
    limits.account.add(name, now)  # before the slow part: attempts side by side count too
    limits.address.add(address, now)
    hashed = await pages.in_store(request, people.password_of, name)
    if not await request.app.state.desk.hash(people.check_password, password, hashed):
        return pages.render(request, "signin.html", 403, problem="Name and password do not match.")
    limits.account.take_back(name)
    limits.address.take_back(address)
    return await enter(request, name)


async def show_invite(request: Request) -> Response:
    """Ask whether to choose a password. Looking uses nothing up: chat programs open links to preview them."""
    return await render_invite(request, "")


async def accept_invite(request: Request) -> Response:
    """Use the link up, keep the password if one was chosen, and begin a session."""
    token, now = request.path_params["token"], pages.now(request)
    password = str(request.state.form.get("password", ""))
    if await pages.in_store(request, people.invited, token, now) is None:
        return await render_invite(request, "")
    hashed = None
    if password:
        try:
            hashed = await request.app.state.desk.hash(people.hash_password, password)
        except StoreError as error:
            return await render_invite(request, error.in_words())
    person = await pages.in_store(request, people.accept_invite, token, hashed, now)
    return await enter(request, person.name)


async def render_invite(request: Request, problem: str) -> Response:
    """The page of a personal link, if it is valid."""
    token = request.path_params["token"]
    invited = await pages.in_store(request, people.invited, token, pages.now(request))
    if invited is None:
        why = "It works once, for two weeks, and ends when a newer one is made."
        return pages.show_error(request, 410, "This link is not valid.", why, "Ask your lead for a new one.")
    return pages.render(request, "join.html", 400 if problem else 200, invited=invited, problem=problem)


async def enter(request: Request, name: str) -> Response:
    """Begin a session under a new token and end the browser's old one: nobody can prepare one for another."""
    if request.state.session_token:
        await pages.in_store(request, people.end_session, request.state.session_token)
    token = await pages.in_store(request, people.start_session, name, pages.now(request))
    security.set_session_cookie(request, token)
    return pages.redirect("/")


async def sign_out(request: Request) -> Response:
    """End the session on the server and in the browser."""
    await pages.in_store(request, people.end_session, request.state.session_token)
    security.set_session_cookie(request, "")
    return pages.redirect("/signin")
