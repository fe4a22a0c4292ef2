"""Which policy gave the answers that were measured, by the hash of its directory: names and paths prove nothing.

An evaluation knows the content of what it read, and responses know that of the policy that gave them. Unknown is
None: a model behind an endpoint, one of the hub (known by its name only), responses that were moved or changed.
"""

from pathlib import Path

from equipoise.artefact import MANIFEST, Manifest, fingerprint_of, read_manifest
from equipoise.errors import ArtefactError

ANSWERS = "answers"
"""Folder of an evaluation with what it asked for itself, a directory of responses for each policy."""


def measured_policy(evaluation: Manifest, name: str, elsewhere: Path | None = None) -> str | None:
    """The hash of the policy that an evaluation measured under a name.

    Args:
        evaluation: Its manifest.
        name: Of the policy.
        elsewhere: Where its responses may lie, if no longer where they were read.
    """
    if _was_asked(evaluation, name):
        return _hash(_content(evaluation, name))
    found = _find_responses(evaluation, name, elsewhere)
    return answering_policy(found) if found else None


def answering_policy(responses: Path) -> str | None:
    """The hash of the policy that gave the responses in a finished directory."""
    return _hash(read_manifest(responses, ("responses",)).inputs.get("policy"))


def are_lost(evaluation: Manifest, name: str, elsewhere: Path | None = None) -> bool:
    """Whether an evaluation read a policy's responses, but from a place where they no longer are."""
    return not _was_asked(evaluation, name) and (
        _content(evaluation, name) is not None and _find_responses(evaluation, name, elsewhere) is None
    )


def _was_asked(evaluation: Manifest, name: str) -> bool:
    return any(file.startswith(f"{ANSWERS}/{name}/") for file in evaluation.files)


def _content(evaluation: Manifest, name: str) -> str | None:
    """The content of what was read for a policy; inputs are called by its number and name."""
    return next((found for key, found in evaluation.inputs.items() if key.partition(" ")[2] == name), None)


def _hash(content: str | None) -> str | None:
    """None for a model of the hub, which stands for itself by its name, such as org/model."""
    return None if content is None or "/" in content else content


def _find_responses(evaluation: Manifest, name: str, elsewhere: Path | None) -> Path | None:
    content = _content(evaluation, name)
    if content is None:
        return None
    places = [elsewhere, Path(evaluation.config["policies"][name])]
    return next((place for place in places if place and _is_content(place, content)), None)


def _is_content(path: Path, content: str) -> bool:
    try:
        return (path / MANIFEST).exists() and fingerprint_of(path) == content
    except ArtefactError:
        return False
