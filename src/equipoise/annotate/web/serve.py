"""Command `annotate serve`: the web app on one address, and how the first lead gets in."""

import socket
from pathlib import Path

import uvicorn

from equipoise.annotate.store import journal, people
from equipoise.annotate.store.project import open_project
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.errors import ConfigError

FIRST_LEAD = "lead"


def serve(project: Path, settings: ServeConfig, now: float) -> None:
    """Serve a project until interrupted.

    Args:
        project: Directory of the project.
        settings: Address, proxy, red-team policy.
        now: Seconds since 1970, for the first lead's link.

    Raises:
        StoreError: There is no project, or its database cannot be opened.
        ConfigError: The address cannot be listened on.
    """
    open_project(project).close()  # refuses before anything listens
    listener = listen(settings.host, settings.port)
    url = address_of(listener)
    print(f"Labelling project {project} at {url}  (Ctrl-C ends it; nothing is lost)", flush=True)
    if link := first_link(project, url, now):
        print(f"First lead: open {link}  (works once)", flush=True)
    config = uvicorn.Config(
        build_app(project, settings),
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # `security` decides whose forwarded headers count
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that the address is known, and refused, before anything else.

    Raises:
        ConfigError: Somebody else listens there, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            "The address cannot be listened on.",
            where=f"{host}:{port}",
            why=str(error),
            fix="Take another with --port, or --port 0 for any free one.",
        ) from error


def address_of(listener: socket.socket) -> str:
    """Its URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def first_link(project: Path, url: str, now: float) -> str:
    """A one-time link for the first lead, until they have come in; empty where others were invited as leads."""
    with open_project(project) as store:
        leads = {person.name for person in people.people(store) if person.role == "lead" and person.is_active}
        if leads - {FIRST_LEAD} or journal.entries(store, limit=1, who=FIRST_LEAD, what="join"):
            return ""
        return f"{url}/join/{people.invite(store, FIRST_LEAD, 'lead', now)}"
