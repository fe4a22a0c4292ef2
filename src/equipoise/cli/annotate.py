"""`equipoise annotate …`: the commands on a labelling project that take a few plain arguments, and `serve`."""

import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from equipoise.annotate.web.config import ServeConfig
from equipoise.errors import DataError
from equipoise.records import RequestKind

ProjectPath = Annotated[Path, Parameter(help="Directory of the project.")]


class ServeProjectConfig(ServeConfig):
    """Serve a labelling project."""

    project: Path = Field(description="Directory of the project.")


def serve(config: ServeProjectConfig) -> None:
    """The web app, until interrupted."""
    from equipoise.annotate.web.serve import serve

    serve(config.project, config, time.time())


def import_files(
    project: ProjectPath,
    *files: Annotated[Path, Parameter(help="Files, or directories of responses.")],
    mapping: Annotated[Path | None, Parameter(help="TOML file: what another tool calls its fields.")] = None,
    labels_as: Annotated[str | None, Parameter(help="Whose labels those without a name are.")] = None,
    prefix: Annotated[str, Parameter(help="Put before the names in the files.", show_default=False)] = "",
    kind: Annotated[
        RequestKind | None, Parameter(help="What the prompts ask for; responses to harmful ones are blurred.")
    ] = None,
) -> int:
    """Read files into a project: items, and the answers that come with them. A second time adds nothing."""
    from equipoise.annotate.files import imports

    if not files:
        raise DataError("There is nothing to import.", fix="Name at least one file.")
    summaries = imports.import_files(
        project, files, mapping=mapping, labels_as=labels_as, prefix=prefix, kind=kind
    )
    print(imports.render(summaries))
    return 0


def invite(
    project: ProjectPath,
    name: Annotated[str, Parameter(help="Of the person, as they will sign in.")],
    *,
    lead: Annotated[bool, Parameter(negative=(), help="May see everything and settle disagreements.")] = False,
    url: Annotated[str, Parameter(help="Where the people reach the app.")] = "http://127.0.0.1:8642",
) -> int:
    """Print a personal link, valid once and for two weeks. For somebody known it is a way back in.

    Nobody loses a role by it; the lead's page of people takes roles away.
    """
    from equipoise.annotate.store import people
    from equipoise.annotate.store.project import open_project

    with open_project(project) as store:
        known = people.person(store, name)
        token = people.invite(store, name, "lead" if lead else known.role if known else "labeller", time.time())
    print(f"For {name} alone; works once, within two weeks:", file=sys.stderr)
    print(f"{url.rstrip('/')}/join/{token}")
    return 0


def status(project: ProjectPath) -> int:
    """How many items are complete, and what everybody has done."""
    from equipoise.annotate import project as projects

    print(projects.status(project))
    return 0


def backup(
    project: ProjectPath, file: Annotated[Path, Parameter(help="File to write; must not be there yet.")]
) -> int:
    """Copy the project as it is at one moment into one file, with the server running or not.

    The file holds items, labels, people and the log; not the uploads, judges' cards and judges' raw answers
    (judge.sqlite) that lie beside them.
    """
    from equipoise.annotate import project as projects

    projects.backup(project, file)
    print(file)
    return 0


def restore(
    file: Annotated[Path, Parameter(help="A backup.")],
    project: Annotated[Path, Parameter(help="Directory to make.")],
) -> int:
    """Make a project of a backup; never over another one. Everybody signs in anew."""
    from equipoise.annotate import project as projects

    projects.restore(file, project)
    print(project)
    return 0


def erase(project: ProjectPath, name: Annotated[str, Parameter(help="The person's name.")]) -> int:
    """Replace a name by a pseudonym everywhere in the project and close the account; the labels stay.

    Backups, exports and copies of older versions made before keep the name: delete them, or make them anew.
    """
    from equipoise.annotate import project as projects

    print(f"{projects.erase(project, name)}  (backups and exports made before keep the name)")
    return 0
