"""What people are shown: texts without control characters, documents without secrets (docs/decisions/0069).

A secret is known by its name, as in Spark's ``spark.redaction.regex``. The ledger and events of scripts keep it: a
worker needs it. Documents, errors and log lines of Sparklet's own do not show it. What a script writes or answers is
the script's.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "*********(redacted)"  # as Spark writes it
MIN_SECRET = 6  # characters; a shorter value is found in too many texts
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, or what turns a line's direction, and halves of characters; not ``\\n`` and ``\\t``."""

_WORD = r"[\w.-]"
SECRET = re.compile(
    rf"(?i:(?<!{_WORD})"
    rf"(?!{_WORD}*[._-](?:arn|cols?|columns?|count|fields?|file|name|path|type)(?!{_WORD}))"  # says which, or where
    rf"(?!(?:{_WORD}*[._-])?(?:max|min|num|n)[._-]?(?:[a-z]+[._-])?tokens(?!{_WORD}))"  # of language models
    rf"(?!(?:{_WORD}*[._-])?(?:partition|primary|foreign|idempotency|sort|join|group|merge|cluster|order|row|hash|range"
    rf"|dedup|unique|natural|business|surrogate|composite|index|object|s3|record|shard|public)[._-]?keys?(?!{_WORD}))"
    rf"(?={_WORD}*(?:secret|passw|passphrase|pwd|credential|authorization|token(?!i[sz])"
    rf"|(?:access|account|api|private)[._-]?key|[a-z0-9][._-]keys?(?!{_WORD}))|(?:{_WORD}*[._-])?pass(?!{_WORD}))"
    rf"{_WORD}++)"
)
"""Names of secrets. A plain ``key`` is none: it is a column, or an object's name."""
_NO_SECRET = re.compile(r"(?:secretsmanager:|ssm:|arn:|\*{4}|\$\{).*|true|false|none|null|", re.IGNORECASE)
_IN_TEXT = re.compile(  # name=value, "name": "value", 'name', 'value', also in JSON within JSON; name:value@host
    rf"""({SECRET.pattern})(\\*["']?\s*[:=,]\s*\\*(?P<quote>["'])|=)((?(quote)[^"'\\]*|[^\s"'&;,<>()\[\]{{}}\\]+))"""
    r"""|(://[^\s/:@"']*:)([^\s/@"']+)(?=@)"""
)


def printable(text: str) -> str:
    """The text; characters that would control a terminal are replaced, one by one."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(text: str) -> str:
    """A JSON text with such characters escaped: the same document."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def redacted(document: Any, found: set[str] | None = None) -> Any:
    """A document, a command line or a text, its secrets hidden; ``found`` gets them."""
    found = set() if found is None else found
    if isinstance(document, Mapping):
        return {name: _value(str(name), each, found) for name, each in document.items()}
    if isinstance(document, list | tuple):
        options = ["", *(each if isinstance(each, str) and each.startswith("-") else "" for each in document)]
        return [_word(*pair, found) for pair in zip(options, document, strict=False)]
    return _IN_TEXT.sub(lambda match: _match(match, found), document) if isinstance(document, str) else document


def _word(option: str, word: Any, found: set[str]) -> Any:
    """A word of a command line, or an entry of a list."""
    name, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    if equals and SECRET.fullmatch(name):
        return f"{name}={_value(name, value, found)}"
    return _value("" if "=" in option or name.startswith("--") else option, word, found)


def _value(name: str, value: Any, found: set[str]) -> Any:
    if not SECRET.search(name) or value is None or isinstance(value, bool) or _NO_SECRET.fullmatch(str(value)):
        return redacted(value, found)
    found.update(_leaves(value))
    return HIDDEN


def _leaves(value: Any) -> Iterable[str]:
    each = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    return [str(value)] if each is None else [leaf for one in each for leaf in _leaves(one)]


def _match(match: re.Match[str], found: set[str]) -> str:
    name, sign, _, value, address, password = match.groups()
    if address:
        found.add(password)
        return f"{address}{HIDDEN}"
    return match[0] if _NO_SECRET.fullmatch(value) else f"{name}{sign}{_value(name, value, found)}"


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text in which these secrets, and what has a secret's name, are hidden."""
    for each in sorted(secrets, key=len, reverse=True):
        for form in (each, json.dumps(each)[1:-1], quote(each)) if len(each) >= MIN_SECRET else ():
            text = text.replace(form, HIDDEN)
    return str(redacted(text))
