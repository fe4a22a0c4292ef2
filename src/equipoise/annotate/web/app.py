"""The application: which pages there are, what guards them, what opens and closes with it.

Pages are in `signin`, `labelling`, `lead` and `redteam`; who may see them is in `security`.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from equipoise.annotate.store import project as projects
from equipoise.annotate.store.core import STORE_FILE
from equipoise.annotate.web import labelling, lead, options, pages, redteam, reports, security, signin
from equipoise.annotate.web.config import ServeConfig
from equipoise.errors import EquipoiseError


def build_app(project: Path, settings: ServeConfig, clock: Callable[[], float] = time.time) -> Starlette:
    """The web app of one project; its database opens when the app starts and closes when it stops.

    Args:
        project: Directory that holds the labelling database.
        settings: How it is served.
        clock: Seconds since 1970.
    """
    desk = pages.Desk(project / STORE_FILE)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.project = await desk.ask("steps", projects.settings)
        try:
            yield
        finally:
            if app.state.policy is not None:
                await app.state.policy.close()
            desk.close()

    app = Starlette(
        routes=[
            Mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static"),
            Route("/", go_home),
            *signin.routes(),
            *labelling.routes(),
            *options.routes(),
            *lead.routes(),
            *redteam.routes(),
        ],
        middleware=[Middleware(security.Guard)],
        exception_handlers={
            HTTPException: pages.show_http_error,
            EquipoiseError: pages.show_refusal,
            Exception: security.show_failure,
        },
        lifespan=lifespan,
    )
    app.state.path, app.state.settings = project, settings
    app.state.policy, app.state.busy_chats = None, set()
    app.state.clock = clock
    app.state.desk = desk
    app.state.reports = reports.Reports()
    app.state.templates = pages.open_templates()
    app.state.cookie = security.cookie_name(project)
    app.state.limits = security.Limits(settings.posts_per_minute)
    return app


async def go_home(request: Request) -> Response:
    """Leads see how the project stands; labellers get their next item."""
    return pages.redirect("/lead/progress" if request.state.person.role == "lead" else "/label")
