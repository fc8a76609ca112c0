"""Predictions as Parquet: one file for each recording, all with the same columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_mer.errors import MissingError
from edge_mer.files import write_atomically
from edge_mer.types.flat import Kind, columns, flat
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction

WHOSE = ("recording", "subject")
"""The first two columns: the recording, and who is in it, as the manifest names them."""

_KEY, _SECONDS = b"edge_mer_key", b"edge_mer_seconds"


class Mark(NamedTuple):
    """What a table says of itself.

    Attributes:
        key: What it was made of.
        seconds: How long the recording is.
    """

    key: str
    seconds: float


def arrow() -> Any:
    """PyArrow, with its Parquet half.

    Raises:
        MissingError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingError(
            "Parquet needs PyArrow", found=f"no module {error.name}", hint="pip install 'edge-mer[ray]'"
        ) from error
    return pyarrow


def schema_of(model: ModelSpec) -> Any:
    """The columns of a model's predictions, a PyArrow schema."""
    pa = arrow()
    types: dict[Kind, Any] = {
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
    }
    fields = [(name, pa.string()) for name in WHOSE]
    fields += [(name, types[kind]) for name, kind in columns(model.outputs, model.modalities).items()]
    return pa.schema(fields)


def table_of(predictions: Sequence[Prediction], model: ModelSpec, recording: str, subject: str) -> Any:
    """A PyArrow table with a row for each prediction."""
    whose = dict(zip(WHOSE, (recording, subject), strict=True))
    return arrow().Table.from_pylist([whose | flat(one) for one in predictions], schema=schema_of(model))


def joined(tables: Sequence[Any]) -> Any:
    """Several tables' rows, one after the other."""
    return arrow().concat_tables(tables)


def write_table(path: Path, table: Any, mark: Mark) -> None:
    """Write a table, or nothing; with its mark, for `mark_of`.

    Raises:
        OSError: It cannot be written.
    """
    buffer = io.BytesIO()
    said = {_KEY: mark.key.encode(), _SECONDS: repr(mark.seconds).encode()}
    arrow().parquet.write_table(table.replace_schema_metadata(said), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def mark_of(path: Path) -> Mark | None:
    """What a table says of itself; None where there is none, or one that cannot be read."""
    pa = arrow()
    try:
        said: Mapping[bytes, bytes] = pa.parquet.read_schema(path).metadata or {}
        return Mark(said[_KEY].decode(), float(said[_SECONDS]))
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None


def statuses_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """Status and reasons of each row."""
    table = arrow().parquet.read_table(path, columns=["status", "reasons"])
    return table.column("status").to_pylist(), table.column("reasons").to_pylist()
