"""Who this process is, for Hadoop, which refuses to start for a user without a name."""

import os
import pwd

NAMELESS = "sparklet"
"""What Hadoop calls a user whom passwd does not know."""


def has_name() -> bool:
    """Whether this process's user has a line in passwd; Lambda's has, if the image gives it one."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True
