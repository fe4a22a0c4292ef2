"""Where a model lives: a local folder, or a name on the hub that is brought to one.

Left out: reading what is in the folder (`template`, `models`).
"""

from pathlib import Path

import httpx

from equipoise.artefact import is_hub_name
from equipoise.errors import ModelError

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def model_folder(path: str | Path) -> Path:
    """The folder of a model: `path` itself, or where the hub's files of that name lie.

    A name counts as one of the hub only if it looks like `organisation/model` and no local folder is called
    `organisation`: a mistyped path is not looked up on the network.

    Raises:
        ModelError: There is no such folder, or the hub does not give it.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    name = str(path)
    if not is_hub_name(path):
        raise ModelError("There is no such model folder.", where=name, fix="Give a folder that holds config.json.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            "There is no such local folder, and the hub does not give a model of that name.",
            where=name,
            why=str(error).splitlines()[0],
            fix="Check the path, or the name and the network.",
        ) from error
