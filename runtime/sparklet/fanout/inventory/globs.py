"""Include and exclude patterns on the part of a key below its prefix."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

NOT_INCLUDED = "not matched by any --include"
EXCLUDED = "matched by --exclude"


class Filter:
    """Decides which keys are input, and counts those that are not.

    ``*`` and ``?`` stay within one folder, ``**`` crosses folders, ``[abc]`` is one character. A pattern
    without ``/`` is compared with the file name alone, at any depth: ``*.csv`` finds ``2013/01.csv``.

    Parameters
    ----------
    include
        A key must match one of these; none: every key does.
    exclude
        A key that matches one of these is left out.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self.skipped: Counter[str] = Counter()
        """How many keys were left out, by reason."""
        self._snapshot: Mapping[str, int] = {}

    def keeps(self, name: str) -> bool:
        """Whether a key, taken below its prefix, is input."""
        if self._include and not any(matches(name, pattern) for pattern in self._include):
            return self.skip(NOT_INCLUDED)
        if any(matches(name, pattern) for pattern in self._exclude):
            return self.skip(EXCLUDED)
        return True

    def skip(self, reason: str) -> bool:
        """Count a key that is left out for another reason; False."""
        self.skipped[reason] += 1
        self._snapshot = {}
        return False

    def snapshot(self) -> Mapping[str, int]:
        """What was left out until now; the same value as long as nothing more is."""
        if not self._snapshot:
            self._snapshot = dict(self.skipped)
        return self._snapshot


def matches(name: str, pattern: str) -> bool:
    """Whether a key below its prefix matches one pattern."""
    subject = name if "/" in pattern else name.rsplit("/", 1)[-1]
    return _compiled(pattern.removeprefix("/")).fullmatch(subject) is not None


_TOKEN = re.compile(r"(?P<folders>\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<not>[!^])?(?P<set>\]?[^\]]*)\]")
_MEANING = {"folders": "(?:[^/]+/)*", "all": ".*", "some": "[^/]*", "one": "[^/]"}


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression; what is no wildcard stands for itself."""
    parts, end = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        end = token.end()
        kind = token.lastgroup or ""
        parts.append(_MEANING[kind] if kind in _MEANING else _character_set(token["set"], bool(token["not"])))
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)


def _character_set(characters: str, negated: bool) -> str:
    """``[a-c]`` or ``[!a-c]``; a range that ends before it begins matches nothing."""
    if not characters:
        return re.escape("[]") if not negated else re.escape("[!]")
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", characters)
    try:
        re.compile(f"[{escaped}]")
    except re.error:
        return "(?!)"
    return f"(?!/)[{'^' if negated else ''}{escaped}]"
