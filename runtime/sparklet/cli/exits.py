"""Exit codes, documented in the README and in ``sparklet --help``."""

from sparklet.model import RunState

ALL_WELL = 0
USAGE = 1
FAILURES = 2
INCOMPLETE = 3
INTERRUPTED = 130

MEANINGS = {
    ALL_WELL: "all succeeded, or failed within what is tolerated",
    USAGE: "usage or set-up",
    FAILURES: "failures beyond tolerance",
    INCOMPLETE: "incomplete: still open, or cancelled",
    INTERRUPTED: "interrupted",
}

_OF_STATE = {
    RunState.SUCCEEDED: ALL_WELL,
    RunState.SUCCEEDED_WITH_FAILURES: ALL_WELL,
    RunState.FAILED: FAILURES,
    RunState.CANCELLED: INCOMPLETE,  # somebody wanted it so: what is missing is not a failure
}


def exit_code(state: RunState) -> int:
    """The exit code for a run's state; one that is still open is incomplete."""
    return _OF_STATE.get(state, INCOMPLETE)
