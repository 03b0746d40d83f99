"""Rows as a Parquet file: typed columns that pandas, polars and DuckDB read directly.

pyarrow is 170 MB, ten times the rest of the bridge, so it is an extra, not a dependency.
"""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from trio_bridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from trio_bridge.rows import Table


def import_pyarrow() -> ModuleType:
    """Import pyarrow with its Parquet module.

    Raises:
        ConfigError: it is not installed; the text says how to install it.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            f"Parquet needs pyarrow: {sys.executable} -m pip install pyarrow; or export as CSV"
        ) from None
    found: ModuleType = pyarrow
    return found


class ParquetFile:
    """Batches of rows of one table; `close` writes the footer that a valid file needs."""

    def __init__(self, file: IO[bytes], table: Table) -> None:
        self._arrow = arrow = import_pyarrow()
        types = {
            "timestamptz": arrow.timestamp("us", tz="UTC"),
            "double precision": arrow.float64(),
            "integer": arrow.int32(),
            "text": arrow.string(),
        }
        self._schema = arrow.schema(
            [(name, types[table.columns[name].type]) for name in table.shown]
        )
        self._writer = arrow.parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, batch: Sequence[Sequence[Any]]) -> None:
        values = zip(*batch, strict=True)
        arrays = [
            self._arrow.array(column, type=field.type)
            for column, field in zip(values, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
