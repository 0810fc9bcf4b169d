"""Numbers as people write them."""

import re

from sparklet.errors import SettingsError

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size_bytes(text: str) -> int:
    """``128MiB``, ``128M``, ``1.5 GiB`` or plain bytes; binary units.

    Raises
    ------
    SettingsError
        If it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([BKMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise SettingsError(f"{text!r} is no size; write it like 128MiB, 1.5GiB or 1000000")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def count_text(count: int, what: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size_text(size_bytes: float) -> str:
    """A size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def duration_text(duration_s: float) -> str:
    """A duration for people."""
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"


_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def parse_duration_s(text: str) -> float:
    """``90s``, ``15m``, ``36h``, ``30d`` or ``2w``.

    Raises
    ------
    SettingsError
        If it is no duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text, re.IGNORECASE)
    if not match:
        raise SettingsError(f"{text!r} is no duration; write it like 15m, 36h or 30d")
    return float(match[1]) * _DURATIONS[match[2].lower()]
