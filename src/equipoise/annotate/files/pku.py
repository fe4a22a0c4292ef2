"""Pairs as a PKU-SafeRLHF file, with the fields of the original release or of the newer one."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from equipoise import artefact
from equipoise.records import PreferencePair

Schema = Literal["original", "newer"]


class Rows(NamedTuple):
    """Rows of the file, and why other pairs are not among them."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]


def to_rows(pairs: Iterable[PreferencePair], schema: Schema, categories: Sequence[str]) -> Rows:
    """The pairs that such a file can hold: one turn, and every label settled.

    Args:
        pairs: Aggregated pairs.
        schema: Which fields.
        categories: All that could be named; those of the newer schema's tables.
    """
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for pair in pairs:
        if len(pair.prompt.messages) > 1:
            left_out["more than one turn"] += 1
        elif None in (pair.more_helpful, pair.safer, *pair.is_safe):
            left_out["a label that is not settled"] += 1
        else:
            rows.append(_original(pair) if schema == "original" else _newer(pair, categories))
    return Rows(rows, dict(left_out))


def choose_schema(wanted: Literal["auto", "original", "newer"], pairs: Iterable[PreferencePair]) -> Schema:
    """The schema that was asked for; with auto the newer one where a pair has categories or severities."""
    if wanted != "auto":
        return wanted
    has_more = any(any(pair.categories) or pair.severity != (None, None) for pair in pairs)
    return "newer" if has_more else "original"


def write(out: Path, rows: Sequence[dict[str, Any]], file_type: Literal["jsonl", "parquet"]) -> None:
    """Write the rows to `pku_safe_rlhf.jsonl` or `.parquet`."""
    path = out / f"pku_safe_rlhf.{file_type}"
    if file_type == "jsonl":
        artefact.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _original(pair: PreferencePair) -> dict[str, Any]:
    return {
        "prompt": pair.prompt.text,
        "response_0": pair.responses[0],
        "response_1": pair.responses[1],
        "is_response_0_safe": pair.is_safe[0],
        "is_response_1_safe": pair.is_safe[1],
        "better_response_id": pair.more_helpful,
        "safer_response_id": pair.safer,
    }


def _newer(pair: PreferencePair, categories: Sequence[str]) -> dict[str, Any]:
    row = _original(pair) | {"prompt_source": pair.prompt.source}
    for side in (0, 1):
        named = pair.categories[side]
        known = [*categories, *(category for category in named if category not in categories)]
        row[f"response_{side}_harm_category"] = {category: category in named for category in known}
        row[f"response_{side}_severity_level"] = pair.severity[side]
        both = pair.prompt.text + pair.responses[side]
        row[f"response_{side}_sha256"] = hashlib.sha256(both.encode()).hexdigest()
    return row
