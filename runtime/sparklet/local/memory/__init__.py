"""Ports in memory: honest, thread-safe implementations that tests and simulations run on.

They keep the promises of ``sparklet.ports`` as the adapters in ``sparklet.aws`` do: one contract
suite runs over both. Time comes from a ``Clock``, so a test moves leases and visibility by hand.
"""

from sparklet.clock import SystemClock
from sparklet.ledger.memory import MemoryLedger
from sparklet.local.memory.objects import MemoryObjectStore
from sparklet.local.memory.services import (
    FakeClock,
    MemoryCompute,
    MemoryNotifier,
    MemoryOrchestrator,
    MemoryTaskQueue,
    MemoryTaskStore,
)

__all__ = [
    "FakeClock",
    "MemoryCompute",
    "MemoryLedger",
    "MemoryNotifier",
    "MemoryObjectStore",
    "MemoryOrchestrator",
    "MemoryTaskQueue",
    "MemoryTaskStore",
    "SystemClock",
]
