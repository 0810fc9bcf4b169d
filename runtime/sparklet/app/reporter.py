"""The interface to which actions report progress, and the forms of numbers and times for people."""

from datetime import UTC, datetime
from typing import Protocol

from sparklet.model.quantities import count_text as count_text


class Reporter(Protocol):
    """Shows lines of progress, and warnings."""

    def say(self, text: str) -> None:
        """Show a line of progress."""

    def warn(self, text: str) -> None:
        """Show a warning; the action continues."""


def size_text(size_bytes: float) -> str:
    """Return a size as people read it: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(time_s: float) -> str:
    """Return a time as people read it, in UTC: 2026-11-20 11:30:00."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def duration_text(duration_s: float) -> str:
    """Return a duration as people read it: 4.2 s, 12 min 05 s or 3 h 20 min."""
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"


def usd_text(cost: float) -> str:
    """Return US dollars as people read them: cents, and more digits only below a dollar."""
    if cost >= 1:
        return f"{cost:,.2f} USD"
    if cost >= 0.0001:
        return f"{cost:.4f} USD"
    return "< 0.0001 USD" if cost else "0 USD"
