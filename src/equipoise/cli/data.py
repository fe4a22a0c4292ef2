"""`equipoise data check FILE`: what a data file holds, before anything is trained on it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from equipoise.data.source import Contradictions, DataSource, FormatName
from equipoise.records import Demonstration, Message, Record

_EXAMPLES = 3


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
        print(f"\nAs tokens of {tokenizer}, the trained or scored part between ⟦ and ⟧")
        for text in _masked(loaded.records[:: max(1, len(loaded.records) // _EXAMPLES)], tokenizer, max_length):
            print(f"--\n{text}")
    return 0


def _masked(records: Sequence[Record], tokenizer: Path, max_length: int) -> Iterator[str]:
    """The first few records as one conversation is trained on or scored."""
    from equipoise.cli.stages import needs_extra
    from equipoise.data.conversations import prompt_of, responses_of

    with needs_extra("data check --tokenizer"):
        from equipoise.tokens.collate import sft_examples
        from equipoise.tokens.render import render_with_mask
        from equipoise.tokens.template import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    for record in records[:_EXAMPLES]:
        answered = (
            [record]
            if isinstance(record, Demonstration)
            else [
                Demonstration(messages=(*prompt_of(record).messages, Message(role="assistant", content=text)))
                for text in responses_of(record)
            ]
        )
        for conversation in answered:
            yield render_with_mask(loaded, sft_examples(loaded, conversation, max_length)[-1])
