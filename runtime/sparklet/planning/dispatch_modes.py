"""How a run's shards reach the workers, and the rule that ``auto`` follows; docs/guide/runs.md describes the modes.

The ledger stores only what hands the shards out (``model.Dispatch``).
"""

from enum import StrEnum

from sparklet.model import MAX_INLINE, Dispatch


class DispatchMode(StrEnum):
    """How a run's shards reach the workers."""

    QUEUE = "queue"
    LOOP = "loop"
    MAP = "map"
    INLINE = "inline"

    @property
    def dispatch(self) -> Dispatch:
        """What hands the shards out, as the ledger stores it."""
        return Dispatch.MAP if self in (DispatchMode.MAP, DispatchMode.INLINE) else Dispatch.QUEUE


def automatic_mode(shards: int) -> tuple[DispatchMode, str]:
    """The mode that ``auto`` takes for a plan, and why."""
    if shards <= MAX_INLINE:
        return DispatchMode.INLINE, f"the plan has no more than {MAX_INLINE} shards"
    return DispatchMode.LOOP, f"the plan has more than {MAX_INLINE} shards"
