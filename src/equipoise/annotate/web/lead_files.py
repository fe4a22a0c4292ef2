"""The lead's page of files: import by upload, export by download. What files mean is in `annotate.files`.

An upload is kept in the project's folder `uploads`, as imported labels name the file and line they are from.
"""

import asyncio
import hashlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from equipoise.annotate.config import ExportConfig
from equipoise.annotate.store import journal
from equipoise.annotate.web import pages
from equipoise.config import validate
from equipoise.errors import DataError, EquipoiseError, StoreError
from equipoise.records import RequestKind

if TYPE_CHECKING:
    from equipoise.annotate.files.imports import FileSummary

UPLOADS = "uploads"
LONGEST_FILE_NAME = 80
MOST_FILES = 20
SHOWN_PROBLEMS = 20
KINDS: dict[str, RequestKind | None] = {
    "": None,
    "harmful": "harmful",
    "harmless": "harmless",
    "look_alike": "look_alike",
}
OPTIONS = ("pku_file", "pku_schema", "method")


def routes() -> Sequence[Route]:
    """Import and export."""
    return (
        Route("/lead/files", show_files),
        Route("/lead/import", import_uploads, methods=["POST"]),
        Route("/lead/export", export, methods=["POST"]),
    )


async def show_files(request: Request) -> Response:
    """The two forms."""
    return render_files(request, [])


def render_files(request: Request, summaries: "Sequence[FileSummary]", problem: str = "") -> Response:
    """The page of files, with what became of those just uploaded."""
    return pages.render(
        request,
        "lead_files.html",
        400 if problem else 200,
        summaries=summaries,
        problem=problem,
        kinds=KINDS,
        shown=SHOWN_PROBLEMS,
    )


async def import_uploads(request: Request) -> Response:
    """Import one or several uploaded files together, all or none."""
    form = request.state.form
    files, mappings = (
        [one for one in form.getlist(name) if isinstance(one, UploadFile) and one.filename]
        for name in ("file", "mapping")
    )
    kind = pages.form_text(request, "kind")
    if kind not in KINDS:
        raise HTTPException(400, f"There is no kind {kind!r}.")
    if not 0 < len(files) <= MOST_FILES or len(mappings) > 1:
        raise HTTPException(400, f"Choose 1 to {MOST_FILES} files, and one mapping at most.")
    sender, labels_as = request.state.person.name, pages.form_text(request, "labels_as", 60)
    try:
        summaries = await asyncio.to_thread(
            keep_and_import,
            request.app.state.path,
            files,
            mappings,
            labels_as,
            KINDS[kind],
            sender,
            pages.now(request),
        )
    except EquipoiseError as error:
        return render_files(request, [], error.in_words())
    return render_files(request, summaries)


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """A file that cannot be written, for a full disk or otherwise, as an error that the page shows."""
    try:
        yield
    except OSError as error:
        fix = "Free space on the disk, then do it again." if error.errno == ENOSPC else ""
        raise StoreError(what, why=error.strerror or "", fix=fix) from error


def keep_and_import(
    project: Path,
    files: Sequence[UploadFile],
    mappings: Sequence[UploadFile],
    labels_as: str,
    kind: RequestKind | None,
    sender: str,
    now: float,
) -> "list[FileSummary]":
    """Import, with pandas and the like loaded only now; what is refused is not kept.

    Raises:
        EquipoiseError: See `import_files`; or the mapping names a file, which would be one of the server's.
    """
    from equipoise.annotate.files.imports import import_files
    from equipoise.annotate.files.mapping import read_mapping

    with ExitStack() as undo:
        with in_words("The upload cannot be kept."):
            paths = [keep(project / UPLOADS, one, undo) for one in files]
            mapping = next((keep(project / UPLOADS, one, undo) for one in mappings), None)
        if mapping and read_mapping(mapping).items:
            raise DataError(
                "An uploaded mapping cannot name a data file (`items`).",
                fix="Import Potato's output on the command line.",
            )
        found = import_files(
            project, paths, mapping=mapping, labels_as=labels_as or None, kind=kind, now=now, by=sender
        )
        undo.pop_all()
    return found


def keep(folder: Path, upload: UploadFile, undo: ExitStack) -> Path:
    """Put an upload below `folder`: a folder named by its content, its own name as far as that is harmless."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(upload.filename or "").name).lstrip(".-")[-LONGEST_FILE_NAME:]
    place = folder / hashlib.file_digest(upload.file, "sha256").hexdigest()[:12]  # type: ignore[arg-type]
    if not place.exists():
        place.mkdir(parents=True)
        undo.callback(shutil.rmtree, place)
    upload.file.seek(0)
    with (place / (name or "file")).open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    return place / (name or "file")


async def export(request: Request) -> Response:
    """The export as one archive, made for this download and removed after it."""
    choices: dict[str, object] = {name: pages.form_text(request, name) for name in OPTIONS}
    choices["names"] = bool(pages.form_text(request, "names"))
    folder = Path(tempfile.gettempdir()) / f"equipoise-export-{secrets.token_hex(8)}"
    clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        config = validate(
            ExportConfig,
            {"project": request.app.state.path, "out": folder / "export", **choices},
            where="the form",
        )
        archive = await asyncio.to_thread(run_export, config, folder)
    except EquipoiseError as error:
        await clean()
        return render_files(request, [], error.in_words())
    detail: dict[str, JsonValue] = {"names": bool(choices["names"])}
    await pages.in_store(request, journal.record, request.state.person.name, "export", detail, pages.now(request))
    return FileResponse(archive, filename="labels.zip", background=clean)


def run_export(config: ExportConfig, folder: Path) -> Path:
    """Export and pack, with pandas and the like loaded only now."""
    from equipoise.annotate.files.export import export as write_export

    with in_words("The export cannot be written."):
        folder.mkdir(mode=0o700)
        return Path(shutil.make_archive(str(folder / "labels"), "zip", write_export(config)))
