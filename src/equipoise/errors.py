"""Every error this package raises for its users.

A message says what went wrong, where, why, and what to do about it. Programming mistakes of our own stay
assertions; they are not in this tree.
"""


class EquipoiseError(Exception):
    """The root of all errors meant for users.

    Args:
        what: What is wrong, in one sentence.
        where: The file and line, directory, config key or step.
        why: The reason, where it is not plain from `what`.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        parts = [what, *(f"  {name}: {text}" for name, text in self._details() if text)]
        super().__init__("\n".join(parts))

    def in_words(self) -> str:
        """The message on one line, without `where`: for people who are not to see the server's files."""
        why = f"{self.why[:1].upper()}{self.why[1:].rstrip('.')}." if self.why else ""
        return " ".join(part for part in (self.what, why, self.fix) if part)

    def _details(self) -> tuple[tuple[str, str], ...]:
        return (("where", self.where), ("why", self.why), ("fix", self.fix))


class DataError(EquipoiseError):
    """A data file is missing, broken, or lacks what a stage needs."""


class ConfigError(EquipoiseError):
    """A recipe, flag or setting is unknown, out of range, or contradicts another."""


class ArtefactError(EquipoiseError):
    """A run directory is unfinished, of another kind, or belongs to another run."""


class ModelError(EquipoiseError):
    """A model or tokenizer cannot be loaded, saved or used as asked."""


class TrainingError(EquipoiseError):
    """A training run cannot go on: the loss is not finite, or a batch is unusable."""


class StoreError(EquipoiseError):
    """The labelling store refuses an operation, or holds what it should not."""


class EvaluationError(EquipoiseError):
    """A number was asked for that the evidence cannot give."""


class EndpointError(EquipoiseError):
    """A judge, scorer or policy behind HTTP, or an engine, did not answer usefully."""
