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
from contextlib import contextmanager
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
from equipoise.errors import EquipoiseError, StoreError

if TYPE_CHECKING:
    from equipoise.annotate.files.imports import FileSummary

UPLOADS = "uploads"
LONGEST_FILE_NAME = 80
MOST_FILES = 20
SHOWN_PROBLEMS = 20
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
        shown=SHOWN_PROBLEMS,
    )


async def import_uploads(request: Request) -> Response:
    """Import one or several uploaded files together, all or none."""
    uploads = [one for one in request.state.form.getlist("file") if isinstance(one, UploadFile) and one.filename]
    mapping = request.state.form.get("mapping")
    if not 0 < len(uploads) <= MOST_FILES:
        raise HTTPException(400, f"Choose 1 to {MOST_FILES} files.")
    folder = request.app.state.path / UPLOADS
    before = set(folder.glob("*")) if folder.exists() else set()
    try:
        files = [await keep(folder, one) for one in uploads]
        has_mapping = isinstance(mapping, UploadFile) and mapping.filename
        names = await keep(folder, mapping) if has_mapping else None
        summaries = await asyncio.to_thread(
            run_import,
            request.app.state.path,
            files,
            names,
            pages.form_text(request, "labels_as", 60),
            pages.now(request),
        )
    except EquipoiseError as error:
        for new in set(folder.glob("*")) - before:
            shutil.rmtree(new)
        words = " ".join(part for part in (error.what, error.why, error.fix) if part)
        return render_files(request, [], words)
    detail: dict[str, JsonValue] = {"files": [file.name for file in files]}
    await pages.in_store(request, journal.record, request.state.person.name, "upload", detail, pages.now(request))
    return render_files(request, summaries)


async def keep(folder: Path, upload: UploadFile) -> Path:
    """Put an upload below `folder`: a folder named by its content, its own name as far as that is harmless."""
    content = await upload.read()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(upload.filename or "").name).lstrip(".-")[-LONGEST_FILE_NAME:]
    path = folder / hashlib.sha256(content).hexdigest()[:12] / (name or "file")

    def write() -> None:
        with in_words("The upload cannot be kept."):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    await asyncio.to_thread(write)
    return path


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """A file that cannot be written, for a full disk or otherwise, as an error that the page shows."""
    try:
        yield
    except OSError as error:
        fix = "Free space on the disk, then do it again." if error.errno == ENOSPC else ""
        raise StoreError(what, why=error.strerror or "", fix=fix) from error


def run_import(
    project: Path, files: Sequence[Path], mapping: Path | None, labels_as: str, now: float
) -> "list[FileSummary]":
    """Import, with pandas and the like loaded only now."""
    from equipoise.annotate.files.imports import import_files

    return import_files(project, files, mapping=mapping, labels_as=labels_as or None, now=now)


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
        words = " ".join(part for part in (error.what, error.why, error.fix) if part)
        return render_files(request, [], words)
    detail: dict[str, JsonValue] = {"names": bool(choices["names"])}
    await pages.in_store(request, journal.record, request.state.person.name, "export", detail, pages.now(request))
    return FileResponse(archive, filename="labels.zip", background=clean)


def run_export(config: ExportConfig, folder: Path) -> Path:
    """Export and pack, with pandas and the like loaded only now."""
    from equipoise.annotate.files.export import export as write_export

    with in_words("The export cannot be written."):
        folder.mkdir(mode=0o700)
        return Path(shutil.make_archive(str(folder / "labels"), "zip", write_export(config)))
