"""Who lost the lease of a table of Hudi is told; ``tests/contract/test_script_leases`` has what all leases promise."""

import time
from pathlib import Path

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from sparklet.job.errors import CommitConflictError
from sparklet.tables.hudi import LEASE, lease


def hold(folder: Path, duration_s: float) -> None:
    """What another writer does, once the lease has ended whose holder sleeps."""
    table = DeltaTable(folder)
    until = CommitProperties(app_transactions=[Transaction(LEASE, int((time.time() + duration_s) * 1000))])
    table.create_write_transaction([], "append", table.schema(), commit_properties=until)


def test_who_lost_a_lease_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommitConflictError, match="was lost"), lease(f"file://{tmp_path}/_lease"):
        hold(tmp_path / "_lease", 30)
