"""A job's beginning and end; here the ledger records what became of a shard."""

from typing import Any

__all__ = ["Job"]


class Job:
    """Glue's object for bookmarks, of which there are none: ``init`` and ``commit`` do nothing."""

    def __init__(self, *_: Any, **named: Any) -> None:
        """Do nothing."""

    init = commit = __init__
