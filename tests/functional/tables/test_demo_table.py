"""What the demo's check reads of its table, also in a folder with a space in its name."""

from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from spark_scripts.demo.flights_table import FlightsTable


def test_files_of_a_delta_table_can_be_opened(tmp_path: Path) -> None:
    table = FlightsTable("delta", tmp_path / "a folder")
    write_deltalake(tmp_path / "a folder" / "flights", pa.table({"day": [1, 2]}))

    found = table.snapshots()

    assert found.count == 1
    assert all(Path(file).is_file() for file in found.files) and len(found.files) == 1
