"""Ports in memory: honest, thread-safe implementations that tests and simulations run on.

They keep the promises of ``sparklet.ports`` as the adapters in ``sparklet.aws`` do: one contract
suite runs over both. Time comes from a ``Clock``, so a test moves leases and visibility by hand.
"""

from sparklet.clock import SystemClock
from sparklet.local.memory.clock import FakeClock
from sparklet.local.memory.compute import MemoryCompute
from sparklet.local.memory.ledger import MemoryLedger
from sparklet.local.memory.objects import MemoryObjectStore
from sparklet.local.memory.orchestrator import MemoryOrchestrator
from sparklet.local.memory.queue import MemoryTaskQueue
from sparklet.local.memory.tasks import MemoryNotifier, MemoryTaskStore

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
