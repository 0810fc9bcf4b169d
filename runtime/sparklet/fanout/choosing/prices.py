"""The figures that estimates are made of: ``prices.toml``, corrected by a file of the user's (SPARKLET_PRICES).

A file of the user's has the same form and only the figures that differ. What is wrong in it is refused, naming the
figure; a price that is misspelt must not silently stay as it was.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparklet.errors import SettingsError

TABLES = ("prices", "assumptions")
_SHIPPED = Path(__file__).with_name("prices.toml")
_DIVISORS = ("assumptions.planned_a_s", "assumptions.task_bytes_a_s")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, and where it comes from."""

    value: float
    date: str  # when it was found: 2026-11, or 2026-11-20
    source: str


@dataclass(frozen=True, slots=True)
class Prices:
    """All figures, by name."""

    figures: Mapping[str, Figure]
    corrected: tuple[str, ...] = ()  # the figures that are the user's own

    def __getitem__(self, name: str) -> float:
        """The value of a figure such as ``prices.transition``."""
        return self.figures[name].value

    @property
    def dates(self) -> tuple[str, str]:
        """The oldest and the newest date of a price."""
        dates = sorted(figure.date for name, figure in self.figures.items() if name.startswith("prices."))
        return dates[0], dates[-1]


def load_prices(own: Path | None = None) -> Prices:
    """The figures, those of the file ``own`` in place of Sparklet's; SettingsError says what is wrong in it."""
    shipped = _figures(_SHIPPED)
    if own is None:
        return Prices(shipped)
    corrected = _figures(own)
    for name in corrected.keys() - shipped.keys():
        near = difflib.get_close_matches(name, shipped, 1)
        remedy = f"is {near[0]} meant?" if near else f"there are {', '.join(shipped)}"
        raise SettingsError(f"the prices {own} have a figure {name}, which nothing uses; {remedy}")
    return Prices({**shipped, **corrected}, tuple(corrected))


def _figures(path: Path) -> dict[str, Figure]:
    import tomllib  # only an estimate needs it

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the prices {path} cannot be read: {error.strerror}; see --prices") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise SettingsError(f"the prices {path} are no TOML: {error}") from error
    if unknown := [name for name in document if name not in TABLES]:
        raise SettingsError(f"the prices {path} have {unknown[0]!r}; figures belong in [{'.…], ['.join(TABLES)}.…]")
    found: dict[str, Figure] = {}
    for table, entries in document.items():
        for name, entry in entries.items() if isinstance(entries, dict) else [("", entries)]:
            found[f"{table}.{name}"] = _figure(path, f"{table}.{name}", entry)
    return found


def _figure(path: Path, name: str, entry: Any) -> Figure:
    if not isinstance(entry, dict) or entry.keys() != {"value", "date", "source"}:
        raise SettingsError(f"{name} in the prices {path} must have exactly a value, a date and a source")
    value = entry["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SettingsError(f"{name} in the prices {path} has the value {value!r}; it must be a number from 0 on")
    if value == 0 and name in _DIVISORS:
        raise SettingsError(f"{name} in the prices {path} is 0; it must be above")
    return Figure(float(value), str(entry["date"]), str(entry["source"]))
