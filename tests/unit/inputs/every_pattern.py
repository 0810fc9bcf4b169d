"""A program that tries every regular expression of Sparklet with hostile texts; it prints each before it tries it."""

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import sparklet
from sparklet.local.emulator_packages import ensure_emulator

UNITS = [*"a0/ .-_=:,\t\n'(ü", "[a", "a/", "a.", "a-", "a=", "a ", "0.", "0,", "0a", "a0b1"]
UNITS += ["/a.csv", "  File ", "Caused by: a.", "s3://", "e: ", "shard="]


def compiled(value: Any) -> Iterator["re.Pattern[Any]"]:
    """Yield the compiled patterns in a module's value, also within collections."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | set | frozenset | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from compiled(each)


def every_pattern() -> dict[str, "re.Pattern[Any]"]:
    """All patterns by name: the values of modules, and literals in calls of ``re``."""
    found: dict[str, re.Pattern[Any]] = {}
    sys.path.append(str(ensure_emulator(print)))
    for module in pkgutil.walk_packages(sparklet.__path__, "sparklet."):
        if ".awsglue" in module.name or module.name.endswith(("__main__", "pytest_plugin")):
            continue
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            found |= {f"{module.name}.{name} {each.pattern!r}": each for each in compiled(value)}
        for node in ast.walk(ast.parse(Path(str(loaded.__file__)).read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="re")), args=[ast.Constant(value=str(pattern)), *_]):
                    found[f"{module.name}:{node.lineno}"] = re.compile(pattern)
    return found


def literals(parsed: Iterable[Any]) -> str:
    """The literal characters of a pattern: a hostile text begins with them, so that the pattern begins to match."""
    texts = ""
    for kind, value in parsed:
        if str(kind) == "LITERAL":
            texts += chr(value)
        elif isinstance(value, tuple) and hasattr(value[-1], "data"):
            texts += literals(value[-1])
    return texts


def main(length: int) -> None:
    """Try each pattern with each hostile text of ``length`` characters."""
    patterns = every_pattern()
    for name, each in patterns.items():
        print(name, flush=True)
        is_bytes = isinstance(each.pattern, bytes)
        text = literals(_parser.parse(each.pattern, 0 if is_bytes else each.flags))
        for unit in [*UNITS, text or "a", text + "a", text + " "]:
            for begin, end in (("", ""), (text, "!"), ("", "\0"), (text, text)):
                hostile: Any = (begin + unit * length)[:length] + end
                hostile = hostile.encode() if is_bytes else hostile
                each.search(hostile), each.match(hostile), each.fullmatch(hostile)
    print(len(patterns), "patterns")


if __name__ == "__main__":
    main(int(sys.argv[1]))
