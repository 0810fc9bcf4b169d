"""Renews objects in a forked process: there threads have ended, locks may be held, connections are the parent's."""

import os
import weakref
from typing import Any

# Weak, so that this list keeps no closed executor or client alive.
_things: "weakref.WeakSet[Any]" = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [thing.after_fork() for thing in list(_things)])


def renew_after_fork(thing: Any) -> None:
    """Call ``thing.after_fork()`` in each process that is forked from this one."""
    _things.add(thing)
