"""Let the time of day jump in running processes while their monotonic clock does not, as between snapshot and restore.

A library, preloaded into the processes, adds the number in a file to the kernel's time of day.
"""

import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift_s(void) {
    char text[32] = {0};
    int file = syscall(SYS_openat, AT_FDCWD, getenv("CLOCK_SHIFT"), O_RDONLY, 0);
    if (file < 0) return 0;
    syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *found) {
    int failed = syscall(SYS_clock_gettime, clock, found);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) found->tv_sec += shift_s();
    return failed;
}

int gettimeofday(struct timeval *found, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec, found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""


@dataclass
class ShiftedClock:
    """The clock of processes that are started with ``variables``; without a C compiler it cannot be shifted."""

    folder: Path
    shift_s: int = 0

    def variables(self) -> dict[str, str]:
        """The environment variables of the processes; {} if there is no C compiler."""
        if not shutil.which("cc"):
            warnings.warn("no C compiler here, so the clock is not shifted", stacklevel=2)
            return {}
        source, library = self.folder / "clock.c", self.folder / "clock.so"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        return {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self.folder / "shift")}

    def shift(self, seconds: int) -> None:
        """Let the time of day jump."""
        if (self.folder / "clock.so").exists():
            self.shift_s = seconds
            (self.folder / "shift").write_text(str(seconds))
