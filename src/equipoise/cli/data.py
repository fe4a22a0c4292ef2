"""`equipoise data check FILE`: what a data file holds, before anything is trained on it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from equipoise.data.source import Contradictions, DataSource, FormatName


def check(
    file: Annotated[str, Parameter(help="File, finished run directory, or hub name org/name[:split].")],
    *,
    format: Annotated[FormatName, Parameter(help="How to read the rows; auto decides by their fields.")] = "auto",
    limit: Annotated[int | None, Parameter(help="Read at most this many rows.")] = None,
    contradictions: Annotated[
        Contradictions, Parameter(help="What to do where the safer response is the one labelled unsafe.")
    ] = "drop",
    tokenizer: Annotated[
        Path | None, Parameter(help="Model folder: show examples as its tokens, the trained part between ⟦ and ⟧.")
    ] = None,
    max_length: Annotated[int, Parameter(help="Tokens at which those examples are cut.")] = 512,
) -> int:
    """Read a data file: counts, label balance, contradictions, lengths, bad rows by file and line, examples."""
    from equipoise.config import validate
    from equipoise.data.read import read
    from equipoise.data.summary import describe, render

    settings = {"path": file, "format": format, "limit": limit, "contradictions": contradictions}
    loaded = read(validate(DataSource, settings, where="flags"))
    print(render(describe(loaded)))
    if tokenizer is not None:
        from equipoise.cli.stages import needs_extra

        with needs_extra("data check --tokenizer"):
            from equipoise.tokens.render import masked_examples
            from equipoise.tokens.template import load_tokenizer

        print(f"\nAs tokens of {tokenizer}, the trained or scored part between ⟦ and ⟧")
        for text in masked_examples(loaded.records, load_tokenizer(tokenizer), max_length):
            print(f"--\n{text}")
    return 0
