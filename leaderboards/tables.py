"""Reads the table of a submission within limits: a small Parquet file can unpack into any amount of memory."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboards.fields import BoardError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS, MOST_CELLS = 200_000, 20_000_000
LARGEST_UNPACKED = 512 * 2**20  # bytes, of numbers and of texts written out
_BATCH = 16_384  # rows: what is read before its size is known


def read_columns(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """The columns named (default: all; one that is not there is left out) as texts, numbers and flags.

    A text that stands in many rows is counted in each before it is written out. Raises BoardError where the file is no
    Parquet table, holds anything else, or more than MOST_ROWS, MOST_CELLS or LARGEST_UNPACKED.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"{path.parent.name}/{path.name}"
    try:
        with pq.ParquetFile(path) as file:
            texts = _check_schema(where, file.schema_arrow)
            _check_claims(where, file.metadata)
            metadata, schema = file.metadata, file.schema_arrow
        columns = [name for name in schema.names if names is None or name in names]
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
            batches = list(_bounded(where, file.iter_batches(_BATCH, columns=columns, use_threads=False)))
        kept = pa.schema([(name, pa.string() if name in texts else schema.field(name).type) for name in columns])
        return pa.Table.from_batches([pa.record_batch(batch, schema=kept) for batch in batches], kept)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BoardError):
            raise
        raise BoardError(f"{where}: not a Parquet table: {error}") from error


def read_numbers(table: pa.Table, name: str, where: str) -> np.ndarray:
    """A column as (N,) float64, NaN where there is none. BoardError where it does not hold numbers."""
    import pyarrow as pa

    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise BoardError(f"{where}: not a table of numbers: {name} is of {kind}")
    return table[name].cast(pa.float64()).to_numpy()


def _check_schema(where: str, schema: pa.Schema) -> list[str]:
    """The names of the columns of text."""
    import pyarrow as pa

    types = {field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
             for field in schema}
    if len(types) < len(schema):
        raise BoardError(f"{where}: expected each column once, got two of one name")
    texts = [name for name, kind in types.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    other = [name for name, kind in types.items() if name not in texts and not any(fits(kind) for fits in plain)]
    if other:
        raise BoardError(f"{where}: expected columns of text and numbers, got {other[0]!r} of {types[other[0]]}")
    return texts


def _check_claims(where: str, metadata: Any) -> None:
    """What the file itself says of its size: a page must unpack to what it says, but a text is said once for all."""
    rows, columns = metadata.num_rows, metadata.num_columns
    if rows > MOST_ROWS or rows * columns > MOST_CELLS:
        raise BoardError(f"{where}: expected at most {MOST_ROWS} rows and {MOST_CELLS} cells, got {rows} × {columns}")
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if unpacked > LARGEST_UNPACKED:
        raise BoardError(f"{where}: expected at most {LARGEST_UNPACKED} bytes unpacked, got {unpacked}")


def _bounded(where: str, batches: Iterator[pa.RecordBatch]) -> Iterator[list[Any]]:
    """Columns batch by batch, texts written out; BoardError before the limit of all is passed."""
    import pyarrow as pa

    total = 0
    for batch in batches:
        total += sum(_bytes_of(column) for column in batch.columns)
        if total > LARGEST_UNPACKED:
            raise BoardError(f"{where}: expected at most {LARGEST_UNPACKED} bytes unpacked, got more: texts that "
                             "repeat without end")
        yield [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
               for column in batch.columns]


def _bytes_of(column: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
    return (pc.sum(lengths).as_py() or 0) + column.indices.nbytes
