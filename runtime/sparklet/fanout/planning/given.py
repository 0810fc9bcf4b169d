"""The keys of a request that came as an event: read one by one, each error naming its key and what it may be."""

import json
from collections.abc import Mapping
from typing import Any

from sparklet.errors import EventError


class Given:
    """The keys of a request; null is as good as absent."""

    def __init__(self, event: Any, known: frozenset[str]) -> None:
        if not isinstance(event, Mapping):
            raise EventError(f"a request must be a JSON object, not a {type(event).__name__}")
        self._values = {key: value for key, value in event.items() if value is not None}
        if unknown := sorted(self._values.keys() - known):
            import difflib  # only to fail with

            near = difflib.get_close_matches(unknown[0], sorted(known), 1)
            remedy = f"is {near[0]} meant?" if near else f"there are {', '.join(sorted(known))}"
            raise EventError(f"a request has no key {unknown[0]!r}; {remedy}")
        try:
            json.dumps(self._values, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise EventError(f"a request holds what is no text in UTF-8, or is nested too deeply: {error}") from error

    @property
    def keys(self) -> frozenset[str]:
        """Those that were given."""
        return frozenset(self._values)

    def of_kind(self, key: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        """The value of a key if it is of a kind; EventError says in ``words`` what it must be."""
        value = self._values.get(key, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise EventError(f"{key} is a {type(value).__name__}; it must be {words}")
        return value

    def text(self, key: str) -> str:
        """A text, "" if there is none."""
        return str(self.of_kind(key, str, "a text", ""))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; one text is a list of one."""
        value = self.of_kind(key, (str, list), "a list of texts", [])
        value = [value] if isinstance(value, str) else value
        if wrong := [each for each in value if not isinstance(each, str)]:
            raise EventError(f"{key} holds a {type(wrong[0]).__name__}; it must be a list of texts")
        return tuple(value)

    def flag(self, key: str) -> bool:
        """True or false, false if there is none."""
        return bool(self.of_kind(key, bool, "true or false", False))

    def number(self, key: str, kind: type, default: float) -> Any:
        """A number."""
        return kind(self.of_kind(key, (int, kind), "a whole number" if kind is int else "a number", default))

    def number_text(self, key: str, default: str) -> str:
        """A number or a text, as text."""
        return str(self.of_kind(key, (int, str), "a number or a text", default))
