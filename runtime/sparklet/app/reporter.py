"""Where an action reports what it does, and the forms of numbers and times for people."""

from datetime import UTC, datetime
from typing import Protocol

from sparklet.model.quantities import count_text as count_text


class Reporter(Protocol):
    """Gets lines of progress, and warnings."""

    def say(self, text: str) -> None:
        """A line of progress."""

    def warn(self, text: str) -> None:
        """A warning; the action continues."""


def size_text(size_bytes: float) -> str:
    """A size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(time_s: float) -> str:
    """A time (UTC) for people."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def duration_text(duration_s: float) -> str:
    """A duration for people."""
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"


def usd_text(cost: float) -> str:
    """US dollars for people: cents, and more digits only below a dollar."""
    if cost >= 1:
        return f"{cost:,.2f} USD"
    return f"{cost:.4f} USD" if cost >= 0.0001 else "< 0.0001 USD" if cost else "0 USD"
