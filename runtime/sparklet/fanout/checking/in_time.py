"""Work of a check that grows with the run: done for a while, the rest is the next check's.

A write to the ledger takes some 5 ms. Ending the leases or the waiting of a million shards in one go would take
longer than a function lives, and nothing else would be done meanwhile.
"""

from collections.abc import Iterator

from sparklet.model import ShardRecord
from sparklet.ports import Clock

A_WHILE_S = 120.0


def for_a_while(clock: Clock, records: Iterator[ShardRecord]) -> Iterator[ShardRecord]:
    """The records, until ``A_WHILE_S`` have gone by since the first was asked for."""
    until_s = clock.now_s() + A_WHILE_S
    for record in records:
        yield record
        if clock.now_s() >= until_s:
            return
