"""`equipoise convert SOURCE OUT`: checkpoints of another layout, the only command that opens `.bin` files."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def convert(
    source: Annotated[str, Parameter(help="Folder or hub name of the checkpoint.")],
    out: Annotated[Path, Parameter(help="Folder to write.")],
    *,
    to: Annotated[
        Literal["equipoise", "beaver"], Parameter(help="equipoise: safetensors, AutoModel plus one head tensor.")
    ] = "equipoise",
) -> None:
    """Published Beaver reward and cost models into this package's layout, or back with --to beaver."""
    from equipoise.cli.stages import needs_extra

    with needs_extra("convert"):
        from equipoise.models import convert as models

    print(models.convert(source, out) if to == "equipoise" else models.export_beaver(source, out))
