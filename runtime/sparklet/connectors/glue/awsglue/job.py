"""A job's beginning and end, for which nothing is needed here: the ledger records how a shard ended."""

from typing import Any

__all__ = ["Job"]


class Job:
    """Glue's object for bookmarks. Sparklet has no bookmarks, so ``init`` and ``commit`` do nothing."""

    def __init__(self, *_: Any, **named: Any) -> None:
        """Do nothing."""

    init = commit = __init__
