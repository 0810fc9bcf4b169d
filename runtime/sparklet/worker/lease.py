"""An attempt's hold on its shard: renewed in the background while it works, and given up when the ledger refuses it.

A worker that is killed renews nothing, so its shard is somebody else's after seconds, whatever the function's timeout.
A ledger that is slow or throttled ends nothing: only its refusal does, which says that another attempt owns the shard.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Self

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.model import ShardResult
from sparklet.ports import Clock
from sparklet.worker.log import Log

ENDS_WITHIN_S = 1.0  # a renewal under way, which a throttled ledger may hold up for a minute

Renew = Callable[[ShardResult | None], None]
"""Renews the lease in the ledger; given the result of a script, it also makes this attempt the shard's winner."""


@dataclass
class Lease:
    """Holds a shard while the block runs, renewed at half of its length.

    Parameters
    ----------
    renew
        See ``Renew``; raises LeaseLostError if the shard has another owner.
    lease_s, end_s
        How long the lease is, and when the one that the claim gave ends.
    """

    renew: Renew
    clock: Clock
    log: Log
    lease_s: float
    end_s: float
    lost: LeaseLostError | None = None
    _done: threading.Event = field(default_factory=threading.Event, init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(ENDS_WITHIN_S)  # one more renewal does no harm

    def work_end_s(self) -> float:
        """When work must end because the shard is somebody else's: never, or at once."""
        return 0.0 if self.lost else inf

    def check(self) -> None:
        """Raise LeaseLostError if the shard is somebody else's; after a freeze the ledger is asked."""
        if self.clock.now_s() >= self.end_s:
            self._renew()
        if self.lost:
            raise self.lost

    def win(self, staged: ShardResult) -> None:
        """Name this attempt's staged output as the shard's, for good; LeaseLostError if it owns the shard no more."""
        begun_s = self.clock.now_s()
        self.renew(staged)
        self.end_s = begun_s + self.lease_s

    def _keep(self) -> None:
        while not self._done.wait(self.lease_s / 2) and not self.lost:
            self._renew()

    def _renew(self) -> None:
        begun_s = self.clock.now_s()
        try:
            self.renew(None)
            self.end_s = begun_s + self.lease_s
        except LeaseLostError as error:
            self.lost = error
            self.log.error("the lease is lost; the script is stopped", error=str(error))
        except LedgerError as error:
            self.log.warning("the lease could not be renewed; the work goes on", error=str(error))
