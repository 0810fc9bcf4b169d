"""Makes texts and documents fit for people: without control characters, without secrets (docs/decisions/0069)."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "*********(redacted)"  # as Spark writes it
MIN_SECRET = 6  # characters; a shorter value also occurs in other words
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""A terminal's control characters but ``\\n`` and ``\\t``, marks of a text's direction, halves of characters."""

_W = r"[\w.-]"
SECRET = (  # a text, not yet compiled: a worker imports this module while it starts
    rf"(?i:(?<!{_W})(?!{_W}*[._-](?:arn|columns?|count|fields?|file|name|path|type)(?!{_W}))"  # its name or place
    rf"(?!{_W}*(?:max|min|num)[._-]?(?:[a-z]+[._-])?tokens(?!{_W}))"  # for language models
    rf"(?!(?:{_W}*[._-])?(?:partition|primary|foreign|idempotency|sort|join|group|merge|cluster|order|row|hash|range"
    rf"|dedup|unique|natural|business|surrogate|composite|index|object|s3|record|shard|public)[._-]?keys?(?!{_W}))"
    rf"(?={_W}*(?:secret|passw|passphrase|pwd|credential|authorization|token(?!i[sz])|(?:access|account|api|private)"
    rf"[._-]?key|[a-z0-9][._-]keys?(?!{_W}))|(?:{_W}*[._-])?pass(?!{_W})){_W}++)"
)
"""Names of secrets. A plain ``key`` is not one: it is a column, or an object's name."""
_HARMLESS = re.compile(r"(?:secretsmanager:|ssm:|arn:|\*{4}|\$\{).*|true|false|none|null|", re.IGNORECASE)
_IN_TEXT = (  # name=value, "name": "value", 'name', 'value', also in JSON within JSON; ://name:value@host
    rf"""({SECRET})(\\*["']?\s*[:=,]\s*\\*(?P<quote>["'])|=)((?(quote)[^"'\\]*|[^\s"'&;,<>()\[\]{{}}\\]+))"""
    r"""|(://[^\s/:@"']*:)([^\s/@"']+)(?=@)"""
)


def printable(text: str) -> str:
    """The text with each control character replaced."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def redacted(document: Any, secrets: set[str] | None = None) -> Any:
    """A document, a command line or a text with its secrets hidden. Their values are added to ``secrets``."""
    secrets = set() if secrets is None else secrets
    if isinstance(document, Mapping):
        return {name: _redacted_value(str(name), value, secrets) for name, value in document.items()}
    if isinstance(document, list | tuple):
        options = ["", *(word if isinstance(word, str) and word.startswith("-") else "" for word in document)]
        return [_redacted_word(option, word, secrets) for option, word in zip(options, document, strict=False)]
    if isinstance(document, str):
        return re.sub(_IN_TEXT, lambda match: _redacted_match(match, secrets), document)
    return document


def _redacted_word(option: str, word: Any, secrets: set[str]) -> Any:
    """A word of a command line, or an entry of a list; hidden if the word, or the option before it, names a secret."""
    name, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
    if equals and re.fullmatch(SECRET, name):
        return f"{name}={_redacted_value(name, value, secrets)}"
    # The word is not the option's value if the option has a value after "=", or if the word is an option itself.
    if "=" in option or name.startswith("--"):
        option = ""
    return _redacted_value(option, word, secrets)


def _redacted_value(name: str, value: Any, secrets: set[str]) -> Any:
    """The value with this name; HIDDEN, and added to ``secrets``, if the name is a secret's."""
    if not re.search(SECRET, name) or value is None or isinstance(value, bool) or _HARMLESS.fullmatch(str(value)):
        return redacted(value, secrets)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        value = [value]
    secrets.update(map(str, value))
    return HIDDEN


def _redacted_match(match: re.Match[str], secrets: set[str]) -> str:
    name, sign, _, value, address, password = match.groups()
    if address:
        secrets.add(password)
        return f"{address}{HIDDEN}"
    return match[0] if _HARMLESS.fullmatch(value) else f"{name}{sign}{_redacted_value(name, value, secrets)}"


def hidden(text: str, secrets: Iterable[str]) -> str:
    """The text with these secrets hidden, and also the values that follow names of secrets."""
    # The longest first: if a shorter one is part of it, the rest would stay readable.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) < MIN_SECRET:
            continue
        # Messages also quote a secret as JSON and as part of an address.
        for form in (secret, json.dumps(secret)[1:-1], quote(secret)):
            text = text.replace(form, HIDDEN)
    return str(redacted(text))
