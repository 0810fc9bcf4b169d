"""What people are shown: texts without control characters, documents without secrets (docs/decisions/0069)."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "*********(redacted)"  # as Spark writes it
MIN_SECRET = 6  # characters; a shorter value is part of too many texts
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys but ``\\n`` and ``\\t``, what turns a line's direction, and halves of characters."""

_W = r"[\w.-]"
SECRET = (  # a text, compiled at its first use: a worker imports this while it starts
    rf"(?i:(?<!{_W})(?!{_W}*[._-](?:arn|columns?|count|fields?|file|name|path|type)(?!{_W}))"  # says which, or where
    rf"(?!{_W}*(?:max|min|num)[._-]?(?:[a-z]+[._-])?tokens(?!{_W}))"  # of language models
    rf"(?!(?:{_W}*[._-])?(?:partition|primary|foreign|idempotency|sort|join|group|merge|cluster|order|row|hash|range"
    rf"|dedup|unique|natural|business|surrogate|composite|index|object|s3|record|shard|public)[._-]?keys?(?!{_W}))"
    rf"(?={_W}*(?:secret|passw|passphrase|pwd|credential|authorization|token(?!i[sz])|(?:access|account|api|private)"
    rf"[._-]?key|[a-z0-9][._-]keys?(?!{_W}))|(?:{_W}*[._-])?pass(?!{_W})){_W}++)"
)
"""Names of secrets. A plain ``key`` is none: it is a column, or an object's name."""
_NO_SECRET = re.compile(r"(?:secretsmanager:|ssm:|arn:|\*{4}|\$\{).*|true|false|none|null|", re.IGNORECASE)
_IN_TEXT = (  # name=value, "name": "value", 'name', 'value', also in JSON within JSON; ://name:value@host
    rf"""({SECRET})(\\*["']?\s*[:=,]\s*\\*(?P<quote>["'])|=)((?(quote)[^"'\\]*|[^\s"'&;,<>()\[\]{{}}\\]+))"""
    r"""|(://[^\s/:@"']*:)([^\s/@"']+)(?=@)"""
)


def printable(text: str) -> str:
    """The text; characters that would control a terminal are replaced, one by one."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def redacted(document: Any, secrets: set[str] | None = None) -> Any:
    """A document, a command line or a text, its secrets hidden; ``secrets`` gets them."""
    secrets = set() if secrets is None else secrets
    if isinstance(document, Mapping):
        return {name: _value(str(name), value, secrets) for name, value in document.items()}
    if isinstance(document, list | tuple):
        options = ["", *(word if isinstance(word, str) and word.startswith("-") else "" for word in document)]
        return [_word(*pair, secrets) for pair in zip(options, document, strict=False)]
    return re.sub(_IN_TEXT, lambda match: _match(match, secrets), document) if isinstance(document, str) else document


def _word(option: str, word: Any, secrets: set[str]) -> Any:
    """A word of a command line, or an entry of a list."""
    name, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    if equals and re.fullmatch(SECRET, name):
        return f"{name}={_value(name, value, secrets)}"
    # An option with its value behind "=" says nothing of the next word; nor does any option if the next word is an
    # option, too.
    return _value("" if "=" in option or name.startswith("--") else option, word, secrets)


def _value(name: str, value: Any, secrets: set[str]) -> Any:
    if not re.search(SECRET, name) or value is None or isinstance(value, bool) or _NO_SECRET.fullmatch(str(value)):
        return redacted(value, secrets)
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    secrets.update(map(str, values))
    return HIDDEN


def _match(match: re.Match[str], secrets: set[str]) -> str:
    name, sign, _, value, address, password = match.groups()
    if address:
        secrets.add(password)
        return f"{address}{HIDDEN}"
    return match[0] if _NO_SECRET.fullmatch(value) else f"{name}{sign}{_value(name, value, secrets)}"


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text in which these secrets, and what has a secret's name, are hidden."""
    # The longest first: a shorter one within it would leave its rest readable.
    for secret in sorted(secrets, key=len, reverse=True):
        # Messages quote a secret also within JSON and within addresses.
        for form in (secret, json.dumps(secret)[1:-1], quote(secret)) if len(secret) >= MIN_SECRET else ():
            text = text.replace(form, HIDDEN)
    return str(redacted(text))
