"""Counts, sizes, durations, times and tolerances as people write them. Other texts raise SettingsError."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sparklet.errors import SettingsError

_SIZES = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DURATIONS = {"S": 1, "M": 60, "H": 3600, "D": 24 * 3600, "W": 7 * 24 * 3600}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its source."""

    value: float
    date: str  # 2026-11, or 2026-11-20
    source: str


def count_text(count: int, noun: str) -> str:
    """A count with its noun: ``1 shard``, ``2 shards``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_size_bytes(text: str) -> int:
    """The bytes of a size such as ``128MiB``, ``128M``, ``1.5 GiB`` or ``1000000``; all units are binary."""
    return round(_parse(text, r"([BKMGT]?)(?:i?B)?", _SIZES, "size; write it like 128MiB, 1.5GiB or 1000000"))


def parse_duration_s(text: str) -> float:
    """The seconds of a duration such as ``90s``, ``15m``, ``36h``, ``30d`` or ``2w``."""
    return _parse(text, "([smhdw])", _DURATIONS, "duration; write it like 15m, 36h or 30d")


def _parse(text: str, unit_pattern: str, units: Mapping[str, int], expected: str) -> float:
    match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{unit_pattern}\s*", text, re.IGNORECASE)
    if not match:
        raise SettingsError(f"{text!r} is not a {expected}")
    return float(match[1]) * units[match[2].upper()]


def parse_time_s(text: str) -> float:
    """The seconds since the epoch of a day or a time, in UTC unless the text names another zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{text!r} must be a time like 2026-11-20 or 2026-11-20T08:30 (UTC). A span such as 36h or 7d is for "
            "the command line only: it would mean another time whenever the request is repeated"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def parse_every(text: str) -> tuple[int, float]:
    """An interval such as ``500`` (shards) or ``10m``, as a number of shards and of seconds, of which one is 0."""
    if text.isdecimal() and int(text):
        return int(text), 0.0
    if text.isdecimal() or not (every_s := parse_duration_s(text)):
        raise SettingsError(f"{text!r} must be a number of shards from 1, or a time like 10m")
    return 0, every_s


def parse_tolerance(text: str) -> tuple[int, float]:
    """A tolerance such as ``5`` (shards) or ``2.5%``, as a count and a percentage, of which one is 0."""
    try:
        if text.endswith("%"):
            count, percentage = 0, float(text.removesuffix("%"))
        else:
            count, percentage = int(text), 0.0
    except ValueError:
        count, percentage = -1, 0.0
    if count < 0 or not 0 <= percentage <= 100:
        raise SettingsError(f"{text!r} must be a number of shards from 0, or a percentage like 2.5%")
    return count, percentage
