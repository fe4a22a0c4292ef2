"""From recipes and flags to one checked config: defaults < TOML files left to right < flags."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equipoise
from equipoise.cli.stages import Stage
from equipoise.config import Config, Tree, merge, read_toml, validate
from equipoise.errors import ConfigError


def resolve(stage: Stage, recipes: Sequence[str], flags: Mapping[str, Any]) -> Config:
    """The settings of one stage run.

    Args:
        stage: The stage.
        recipes: TOML files, or names of recipes that ship with the package.
        flags: What was typed as flags, nested.

    Raises:
        ConfigError: A recipe is missing or broken, or a setting is unknown or out of range.
    """
    kind = stage.load_config()
    layers = [_part_for(stage, kind, read_toml(find_recipe(recipe))) for recipe in recipes]
    return validate(kind, merge([*layers, flags]), where=", ".join([*recipes, *(["flags"] if flags else [])]))


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the bare name of one that ships (`playground`).

    Raises:
        ConfigError: There is neither.
    """
    if name.endswith(".toml"):
        return Path(name)
    folder = shipped_recipes()
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise ConfigError(
            f"There is no recipe {name!r}.", why=f"These ship: {known}.", fix="Or give the path of a .toml file."
        )
    return path


def shipped_recipes() -> Path:
    """The folder of recipes: inside an installed package, beside `src` in a checkout."""
    package = Path(equipoise.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def to_toml(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A tree as TOML that reads back as the same tree; unset values become comments."""
    lines = [
        f"{key} = {_value(value)}" if value is not None else f"# {key} is unset"
        for key, value in tree.items()
        if not isinstance(value, Mapping)
    ]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = (*path, key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key))
            lines += ["", f"[{'.'.join(inner)}]", to_toml(value, inner)]
    return "\n".join(lines)


def _part_for(stage: Stage, kind: type[Config], recipe: Tree) -> Tree:
    """A recipe for several stages has a table per stage; one for a single stage has its keys at the top."""
    part = recipe.get(stage.table)
    return part if isinstance(part, dict) and stage.table not in kind.model_fields else recipe


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{json.dumps(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)
