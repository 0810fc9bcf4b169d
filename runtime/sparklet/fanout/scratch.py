"""Temporary files of a planner: what is wrong with the disk, told with its remedy."""

import tempfile

from sparklet.errors import ScratchFullError


def scratch_error(what: str, error: Exception) -> ScratchFullError:
    """The error of a temporary file that could not be written."""
    return ScratchFullError(
        f"{what} could not be kept in {tempfile.gettempdir()}: {error}; free space there, or set TMPDIR"
    )
