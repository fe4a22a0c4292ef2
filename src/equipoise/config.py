"""How settings are declared, layered and hashed: defaults < TOML files left to right < flags.

Each stage declares one frozen `Config` beside itself. This module knows no stage.
"""

import difflib
import hashlib
import importlib
import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from equipoise.errors import ConfigError, EndpointError

NO_TOKEN = "none"
"""Sent as bearer token where none is set: the `openai` client insists on one, and must not take OpenAI's own."""


class Config(BaseModel):
    """A frozen group of settings; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_group_defaults(cls, tree: Any) -> Any:
        """A group given in part keeps the rest of its default: `[optimizer] lr = …` leaves the schedule alone."""
        if not isinstance(tree, Mapping):
            return tree
        groups = {
            name: default.model_dump()
            for name, field in cls.model_fields.items()
            if isinstance(tree.get(name), Mapping) and isinstance(default := field.get_default(), BaseModel)
        }
        return {**tree, **{name: merge([default, tree[name]]) for name, default in groups.items()}}


ConfigT = TypeVar("ConfigT", bound=Config)
Tree = dict[str, Any]


def read_toml(path: Path) -> Tree:
    """The tree in a TOML file.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("There is no such recipe.", where=str(path), fix="Check the path.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("The recipe is not valid TOML.", where=str(path), why=str(error)) from error


def merge(layers: Sequence[Mapping[str, Any]]) -> Tree:
    """One tree out of several; tables merge key by key, any other value is replaced by the later layer.

    A table that names another `type` than the one below it is another variant, and replaces it whole.
    """
    merged: Tree = {}
    for layer in layers:
        if "type" in merged and layer.get("type", merged["type"]) != merged["type"]:
            merged = {}
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge([old, value]) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def validate(kind: type[ConfigT], tree: Mapping[str, Any], *, where: str) -> ConfigT:
    """Check `tree` against `kind`.

    Raises:
        ConfigError: Names each wrong key with its path, the reason, and the known key nearest to it.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(
            f"{len(lines)} setting(s) of {kind.__name__} are wrong:\n    " + "\n    ".join(lines),
            where=where,
            fix="See the stage's --help for every setting, its default and its range.",
        ) from error


def config_hash(config: BaseModel) -> str:
    """16 hex digits over the resolved settings."""
    return hash_tree(config.model_dump(mode="json"))


def hash_tree(tree: Any) -> str:
    """16 hex digits over any JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _explain(kind: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "missing":
        return f"{key}: required, but not given"
    if not path:  # several settings together
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem.get("input"), dict):  # several, of one table
        return f"{key}: {str(problem['msg']).removeprefix('Value error, ')}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']} (got {problem.get('input')!r})"
    near = difflib.get_close_matches(path[-1], _known_keys(kind, path[:-1]), n=1, cutoff=0.5)
    return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _known_keys(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Every key that could stand at `path`; of a union the keys of the variant that its tag names."""
    kinds: list[type[BaseModel]] = [kind]
    for part in path:
        fields = [k.model_fields[part].annotation for k in kinds if part in k.model_fields]
        deeper = [model for annotation in fields for model in _models_in(annotation)]
        tagged = [k for k in kinds if "type" in k.model_fields and k.model_fields["type"].default == part]
        kinds = deeper or tagged or kinds  # a union's tag or a list index is part of the path but no field
    return [name for k in kinds for name in k.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def bearer_token(variable: str | None, url: str) -> str:
    """The token of an endpoint, from the environment variable that its settings name; None: it needs none.

    Raises:
        EndpointError: The variable is not set.
    """
    token = os.environ.get(variable, "") if variable else NO_TOKEN
    if not token:
        raise EndpointError(
            f"The environment variable {variable} is not set.",
            where=url,
            fix="Set it to the endpoint's bearer token, or unset token_variable.",
        )
    return token


def resolve_function(name: str) -> Callable[..., Any]:
    """The Python function that a setting names as `package.module:function`.

    Raises:
        ConfigError: The name is not of that form, or there is nothing callable there.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"There is no function {name!r}.",
            why=str(error),
            fix="Write it as package.module:function, importable from where you run the command.",
        ) from error
    if not callable(found):
        raise ConfigError(f"{name!r} is not a function but a {type(found).__name__}.")
    return cast("Callable[..., Any]", found)
