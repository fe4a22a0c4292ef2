import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from equipoise.config import Config, config_hash, merge, read_toml, resolve_function, validate
from equipoise.errors import ConfigError


class Optimizer(Config):
    lr: float = Field(2e-5, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"


class Constant(Config):
    type: Literal["constant"] = "constant"
    value: float = 1.0


class Dual(Config):
    type: Literal["dual"] = "dual"
    lr: float = 0.1
    floor: float = 0.001


class Stage(Config):
    out: Path = Path("x")
    steps: int = Field(10, ge=1)
    optimizer: Optimizer = Optimizer(lr=1e-5)
    lam: Annotated[Constant | Dual, Field(discriminator="type")] = Dual(floor=0.5)


def refusal(tree: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Stage, tree, where="recipe.toml")
    return str(caught.value)


def test_later_layers_win_key_by_key_and_lists_are_replaced() -> None:
    merged = merge([{"a": {"x": 1, "y": 2}, "l": [1, 2]}, {"a": {"y": 3}}, {"l": [9]}])
    assert merged == {"a": {"x": 1, "y": 3}, "l": [9]}


def test_merging_changes_no_layer() -> None:
    low = {"a": {"x": 1}}
    merge([low, {"a": {"x": 2}}])
    assert low == {"a": {"x": 1}}


def test_a_table_of_another_type_replaces_the_whole_table() -> None:
    merged = merge([{"lam": {"type": "dual", "floor": 0.1}}, {"lam": {"type": "constant"}}])
    assert merged == {"lam": {"type": "constant"}}


def test_a_table_that_first_names_its_type_keeps_what_is_below() -> None:
    assert merge([{"lam": {"floor": 0.1}}, {"lam": {"type": "dual"}}]) == {"lam": {"floor": 0.1, "type": "dual"}}


def test_a_group_given_in_part_keeps_the_rest_of_its_default() -> None:
    config = validate(Stage, {"optimizer": {"schedule": "constant"}, "lam": {"lr": 0.2}}, where="")
    assert config.optimizer == Optimizer(lr=1e-5, schedule="constant")
    assert config.lam == Dual(lr=0.2, floor=0.5)


def test_another_variant_takes_nothing_from_the_default_variant() -> None:
    assert validate(Stage, {"lam": {"type": "constant"}}, where="").lam == Constant()


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    assert "step: unknown key; did you mean 'steps'?" in refusal({"step": 3})


def test_an_unknown_nested_key_is_answered_within_its_group() -> None:
    assert "optimizer.lrr: unknown key; did you mean 'lr'?" in refusal({"optimizer": {"lrr": 1.0}})
    assert "did you mean 'floor'?" in refusal({"lam": {"type": "dual", "flor": 1.0}})


def test_a_key_of_another_variant_is_not_answered_with_itself() -> None:
    [line] = [
        line for line in refusal({"lam": {"type": "constant", "floor": 1.0}}).splitlines() if "floor" in line
    ]
    assert line.strip() == "lam.constant.floor: unknown key"


def test_a_value_of_the_wrong_type_or_range_is_named_with_the_value() -> None:
    text = refusal({"steps": "many", "optimizer": {"lr": -1}})
    assert "steps: " in text and "'many'" in text
    assert "optimizer.lr: Input should be greater than 0 (got -1)" in text
    assert "recipe.toml" in text


def test_every_wrong_key_is_reported_at_once() -> None:
    assert refusal({"steps": 0, "stepz": 1}).startswith("2 setting(s)")


def test_a_missing_recipe_and_a_broken_one_are_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such recipe"):
        read_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = ")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        read_toml(broken)


def test_equal_settings_have_equal_hashes_and_others_do_not() -> None:
    assert config_hash(Stage()) == config_hash(validate(Stage, {"steps": 10}, where=""))
    assert config_hash(Stage()) != config_hash(Stage(steps=11))


def test_a_function_is_found_by_name_or_refused_in_words() -> None:
    assert resolve_function("json:dumps") is json.dumps
    for name in ("json:nothing", "no_such_module:x", "dumps", "json:__name__"):
        with pytest.raises(ConfigError):
            resolve_function(name)
