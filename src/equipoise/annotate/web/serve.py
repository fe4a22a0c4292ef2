"""Command `annotate serve`: the web app on one address, and how the first lead gets in."""

import asyncio
import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from equipoise.annotate.store import journal, people
from equipoise.annotate.store.project import open_project
from equipoise.annotate.web.app import build_app
from equipoise.annotate.web.config import ServeConfig
from equipoise.errors import ConfigError

FIRST_LEAD = "lead"
EVERYWHERE = ("0.0.0.0", "::")
MOST_CONNECTIONS = 500
"""More are answered 503: below the number of files that a process may have open on most systems, 1024."""
HEAD_SECONDS = 20.0
"""Within which a connection has to begin a request. Bodies have times of their own in `security`."""
HEAD_BYTES = 2**16


class Connection(H11Protocol):
    """One connection; closes when no request has begun for a while, as uvicorn itself would wait for ever."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up, self.cycle)

    def _give_up(self, last: RequestResponseCycle | None) -> None:
        """Close if nothing has begun since `last`, and that has been answered; wait again otherwise."""
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
        else:
            self._wait_for_request()


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
    if not settings.behind_proxy and not is_loopback(listener):
        print("Other machines reach it unencrypted: see `Several machines` in docs/annotation.md.", flush=True)
    if link := first_link(project, url, now):
        print(f"First lead: open {link}  (works once)", flush=True)
    with listener:
        make_server(build_app(project, settings)).run(sockets=[listener])


def make_server(app: Starlette) -> uvicorn.Server:
    """The server with its limits: HTTP/1.1 alone, and nobody keeps a connection by saying nothing."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=MOST_CONNECTIONS,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # `security` decides whose forwarded headers count
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that the address is known, and refused, before anything else.

    Raises:
        ConfigError: Somebody else listens there, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        why, fix = os.strerror(error.errno or 0), "Take a port above 1023."
        if is_taken:
            why, fix = "Another program, or this one, listens there.", "Stop it, or --port 0 takes any free port."
        elif error.errno != errno.EACCES:
            why = "It is no address of this machine."
            fix = "Without --host it is this machine only; --host 0.0.0.0 is every address that it has."
        raise ConfigError(
            "The address cannot be listened on.", where=f"{host}:{port}", why=why, fix=fix
        ) from error


def address_of(listener: socket.socket) -> str:
    """Its URL, with the machine's name where it listens on every address."""
    host, port = listener.getsockname()[:2]
    if host in EVERYWHERE:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def first_link(project: Path, url: str, now: float) -> str:
    """A one-time link for the first lead, until they have come in; empty where others were invited as leads."""
    with open_project(project) as store:
        leads = {person.name for person in people.people(store) if person.role == "lead" and person.is_active}
        if leads - {FIRST_LEAD} or journal.entries(store, limit=1, who=FIRST_LEAD, what="join"):
            return ""
        return f"{url}/join/{people.invite(store, FIRST_LEAD, 'lead', now)}"
