"""Flags for a config: a TypedDict of the same shape with every key optional.

cyclopts parses it into a tree of what was typed and nothing more, which is the last layer over the recipes;
`config.validate` then checks the whole. Left out: any parsing, any checking.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from cyclopts import Parameter, Token
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_BOUNDS = {Gt: ("> ", "gt"), Ge: ("≥ ", "ge"), Lt: ("< ", "lt"), Le: ("≤ ", "le")}
_LENGTHS = {MinLen: ("at least ", "min_length"), MaxLen: ("at most ", "max_length")}


class Setting(NamedTuple):
    """One field of a config, or of one variant of a union of configs; its default is ... where there is none.

    `group` names the table that the field is in, if that may be left out altogether.
    """

    field: FieldInfo
    default: Any
    variant: str
    group: str


def flags_type(kind: type[BaseModel], defaults: BaseModel | None = None) -> Any:
    """A TypedDict with a key per setting of `kind`, nested as it is.

    Args:
        kind: The config.
        defaults: The values that stand where nothing is said; the fields' own unless given.
    """
    return _typed_dict([kind], defaults, "")


def _typed_dict(kinds: Sequence[type[BaseModel]], defaults: BaseModel | None, group: str) -> Any:
    """The settings of one config, or of all variants of a union (that of the defaults first), under one name."""
    settings: dict[str, list[Setting]] = {}
    for kind in sorted(kinds, key=lambda kind: not isinstance(defaults, kind)):
        variant = _tag(kind) if len(kinds) > 1 else ""
        for name, field in kind.model_fields.items():
            default = getattr(defaults, name) if isinstance(defaults, kind) else _default(field)
            if variant and name == "type" and defaults is None:
                default = ...  # a union has no variant unless somebody names one
            settings.setdefault(field.alias or name, []).append(Setting(field, default, variant, group))
    hints = {name: _flag(name, same, of=len(kinds)) for name, same in settings.items()}
    return TypedDict(kinds[0].__name__, hints, total=False)  # type: ignore[operator]


def _flag(name: str, same: Sequence[Setting], *, of: int) -> Any:
    """The type of one flag with its help; `same` are the variants that have a setting of this name."""
    models = [model for setting in same for model in _variants(setting.field.annotation)]
    if models:
        defaults = next((s.default for s in same if isinstance(s.default, BaseModel)), None)
        group = _typed_dict(models, defaults, name if all(s.default is None for s in same) else same[0].group)
        parts = {part for setting in same for part in get_args(_bare(setting.field.annotation))}
        plain = [kind for kind in (str, Path) if kind in parts]
        if not plain:
            return group
        return Annotated[Union.__getitem__((*plain, group)), Parameter(help=_help(same, of))]
    words = _help(same, of)
    if any(_holds_models(setting.field.annotation) for setting in same):
        if all(get_origin(_bare(setting.field.annotation)) is dict for setting in same):
            return Annotated[dict[str, Any], Parameter(help=words)]
        return Annotated[list[Any], Parameter(help=words, converter=_tables)]
    hints = tuple(_bare(setting.field.annotation) for setting in same)
    if all(hint == dict[str, Any] for hint in hints):  # the settings of another stage, which checks them
        return Annotated[dict[str, Any], Parameter(help=words, accepts_keys=True, n_tokens=1, converter=_settings)]
    if all(get_origin(hint) is Literal for hint in hints):
        return Annotated[_literal([choice for hint in hints for choice in get_args(hint)]), Parameter(help=words)]
    return Annotated[Union.__getitem__(hints), Parameter(help=words)]


def _literal(choices: Sequence[Any]) -> Any:
    return Literal.__getitem__(tuple(dict.fromkeys(choices)))


def _variants(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a setting is one of: one for a group, several for a union, none for a value."""
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None or not _is_union(annotation):
        return []
    return [model for part in get_args(annotation) for model in _variants(part)]


def _holds_models(annotation: Any) -> bool:
    """Whether it is a list of configs, which a flag takes as one text or JSON object each."""
    return any(_variants(part) or _holds_models(part) for part in get_args(annotation))


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _settings(_: Any, tokens: Any) -> Any:
    """The value of --ppo-lag.dual.lr 0.1 at every depth, names as a recipe has them; or JSON for a whole table."""
    if isinstance(tokens, dict):
        return {key.replace("-", "_"): _settings(None, inner) for key, inner in tokens.items()}
    text = tokens[-1].value
    return json.loads(text) if text.startswith(("{", "[")) else text


def _tables(_: Any, tokens: Sequence[Token]) -> list[Any]:
    return [json.loads(t.value) if t.value.startswith("{") else t.value for t in tokens]


def _tag(kind: type[BaseModel]) -> str:
    field = kind.model_fields.get("type")
    return str(get_args(field.annotation)[0]) if field and get_origin(field.annotation) is Literal else ""


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _help(same: Sequence[Setting], of: int) -> str:
    """Description, the variants it belongs to, range, default."""
    field, default, _, group = same[0]
    only = [s.variant for s in same if s.variant] if len(same) < of else []
    required = f"required with any --{group.replace('_', '-')} setting" if group else "required"
    notes = [
        f"only for {' or '.join(only)}" if only else "",
        ", ".join(text for bound in field.metadata if (text := _range(bound, field.annotation))),
        required if default is ... else f"default: {_shown(default)}",
    ]
    return " ".join([field.description or "", *(f"[{note}]" for note in notes if note)]).strip()


def _range(bound: Any, annotation: Any) -> str:
    if _bare(annotation) is str and isinstance(bound, MinLen) and bound.min_length == 1:
        return "not empty"
    counted = "characters" if _bare(annotation) is str else "of them"
    for words in (_BOUNDS, _LENGTHS):
        if type(bound) in words:
            sign, name = words[type(bound)]
            return f"{sign}{getattr(bound, name)}" + (f" {counted}" if words is _LENGTHS else "")
    return f"a multiple of {bound.multiple_of}" if isinstance(bound, MultipleOf) else ""


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_shown(v) for v in value) or "none"
    if isinstance(value, BaseModel):
        return f"{type(value).__name__} by its own defaults"
    return "none" if value is None else str(value) if isinstance(value, (str, PurePath)) else json.dumps(value)
