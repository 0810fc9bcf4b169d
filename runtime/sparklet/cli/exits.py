"""Exit codes, documented in the README and in ``sparklet --help``."""

from sparklet.model import RunState

ALL_WELL = 0
USAGE = 1
FAILURES = 2
INCOMPLETE = 3
INTERRUPTED = 130

_OF_STATE = {
    RunState.SUCCEEDED: ALL_WELL,
    RunState.SUCCEEDED_WITH_FAILURES: ALL_WELL,
    RunState.FAILED: FAILURES,
}


def exit_code(state: RunState) -> int:
    """The exit code for a run's state."""
    return _OF_STATE.get(state, INCOMPLETE)
