"""Sizes, durations, times and tolerances as people write them."""

import re
from datetime import UTC, datetime

from sparklet.errors import SettingsError

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


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


def parse_time_s(text: str) -> float:
    """A day or a time, UTC unless it says otherwise, in seconds since the epoch.

    Raises
    ------
    SettingsError
        If it is neither.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} must be a time like 2026-11-20 or 2026-11-20T08:30 (UTC); a span such as 36h or 7d is known on "
            "the command line alone, since it would be another one each time a request is repeated"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def parse_tolerance(text: str) -> tuple[int, float]:
    """``5`` shards or ``2.5%`` of them, as count and percentage.

    Raises
    ------
    SettingsError
        If it is neither.
    """
    try:
        count, percentage = (0, float(text.removesuffix("%"))) if text.endswith("%") else (int(text), 0.0)
    except ValueError:
        count, percentage = -1, 0.0
    if count < 0 or not 0 <= percentage <= 100:
        raise SettingsError(f"{text!r} must be a number of shards from 0, or a percentage like 2.5%")
    return count, percentage
