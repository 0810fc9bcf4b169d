"""The options that a script asks for in its own text; both runners follow them.

They are comments, anywhere, at the start of a line::

    # sparklet: runner=submit
    # sparklet: spark.driver.memory=3g
    # sparklet: spark.driver.extraJavaOptions=-Duser.language=de

A script needs its own JVM if a comment, or a literal in its code such as
``.config("spark.jars.packages", "group:artifact:1.0")``, has an option that only a new JVM can take. It then gets one
with those options. Both runners use the other options in comments, and with ``runner=warm`` a script stays on the warm
JVM whatever its code has.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparklet.errors import ScriptError

JVM_OPTIONS = frozenset(
    {
        *("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions", "spark.driver.extraLibraryPath"),
        *("spark.driver.extraClassPath", "spark.driver.userClassPathFirst", "spark.jars", "spark.jars.excludes"),
        *("spark.jars.ivySettings", "spark.jars.packages", "spark.jars.repositories"),
    }
)
"""Not ``spark.driver.memory``: spark-submit, too, ignores it in code, and the JVM has all the function's memory."""

IN_A_COMMENT = JVM_OPTIONS | {"spark.driver.memory"}
SETTERS = frozenset({"config", "set", "setIfMissing"})

_COMMENT = re.compile(r"^#\s*sparklet:\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """The options of a script."""

    submit: bool = False  # it needs its own JVM
    conf: dict[str, str] = field(default_factory=dict)


def read_options(script: Path) -> ScriptOptions:
    """The options of a script file; raises ScriptError if it cannot be read or its comments are wrong."""
    try:
        return script_options(script.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from error


def script_options(source: str) -> ScriptOptions:
    """The options in a script's text; raises ScriptError if a ``# sparklet:`` comment is wrong or two contradict."""
    commented = dict(_commented(source))
    runner = commented.pop("runner", "")
    jvm_options = sorted(IN_A_COMMENT.intersection(commented))
    if runner == "warm":
        if jvm_options:
            raise ScriptError(f"the script's comments ask for runner=warm and for {jvm_options[0]}, which needs submit")
        return ScriptOptions(conf=commented)
    literals = dict(_literals(source)) if any(option in source for option in JVM_OPTIONS) else {}
    conf = {**{key: value for key, value in literals.items() if value is not None}, **commented}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(literals), conf)


def _commented(source: str) -> Iterator[tuple[str, str]]:
    for match in _COMMENT.finditer(source):
        key, equals, value = (part.strip() for part in match[1].partition("="))
        if not (equals and (key.startswith("spark.") or (key == "runner" and value in ("warm", "submit")))):
            line = source.count("\n", 0, match.start()) + 1
            raise ScriptError(
                f"line {line} of the script: '# sparklet: {match[1]}' must be runner=submit, runner=warm or spark.…=…"
            )
        yield key, value


def _literals(source: str) -> Iterator[tuple[str, str | None]]:
    """JVM options in the code, each with its value if that is a plain string."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # running it fails with a better message
        return
    for node in ast.walk(tree):
        for key, value in _pairs(node):
            if isinstance(key, ast.Constant) and key.value in JVM_OPTIONS:
                literal = value.value if isinstance(value, ast.Constant) else None
                yield str(key.value), literal if isinstance(literal, str) else None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Where code names an option and its value: ``.config(k, v)``, ``(k, v)``, ``{k: v}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        if node.func.attr in SETTERS:
            yield node.args[0], node.args[1]
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
