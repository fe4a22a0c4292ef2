"""Harm categories that a project asks about: two published lists, or a file of the team's own.

A file is TOML or JSON with a list `categories`, each a table with `name` (what labels carry) and, if wanted,
`title` and `description` (what labellers read). A project keeps the list it was created with.
"""

import json
import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from equipoise.config import Config, Tree, validate
from equipoise.errors import ConfigError
from equipoise.records import BEAVERTAILS_CATEGORIES, PKU_CATEGORIES

PUBLISHED = {"beavertails14": BEAVERTAILS_CATEGORIES, "pku19": PKU_CATEGORIES}


class Category(Config):
    """One way to do harm."""

    name: str = Field(min_length=1, max_length=100, description="What labels carry.")
    title: str = Field("", max_length=100, description="What labellers read; made of the name unless given.")
    description: str = Field("", max_length=2000, description="What belongs here and what does not.")

    @property
    def label(self) -> str:
        """What labellers read."""
        return self.title or self.name.replace(",", ", ").replace("_", " ").capitalize()


class Taxonomy(Config):
    """The categories of a project, in the order shown."""

    categories: tuple[Category, ...] = Field(min_length=1, max_length=50, description="In the order shown.")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("two categories have the same name")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What labels carry."""
        return tuple(category.name for category in self.categories)


def load_taxonomy(name: str) -> Taxonomy:
    """The published list of that name, or the list in that file.

    Raises:
        ConfigError: Neither is there, or the file holds no list of categories.
    """
    if name in PUBLISHED:
        return Taxonomy(categories=tuple(Category(name=one) for one in PUBLISHED[name]))
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(PUBLISHED)
        raise ConfigError(
            "There is no such taxonomy.", where=name, why=str(error), fix=f"Name {known}, or a TOML or JSON file."
        ) from error
    try:
        tree: Tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:  # of both parsers
        raise ConfigError("The taxonomy cannot be read.", where=name, why=str(error)) from error
    return validate(Taxonomy, tree, where=name)
