"""What a script asks of its JVM: the one thing a JVM that runs already cannot give.

A script says so in a comment of its own, anywhere, at the start of a line::

    # sparklet: runner=submit
    # sparklet: spark.driver.memory=3g
    # sparklet: spark.driver.extraJavaOptions=-Duser.language=de

Or it is seen to: options that only a new JVM can take, written out in the code, as in
``.config("spark.jars.packages", "group:artifact:1.0")``. Such a script is run by ``submit``, with
those options, so that they have the effect that is meant. Other options in comments are given to either
runner, and ``runner=warm`` keeps a script on the warm JVM whatever its code says.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from sparklet.errors import ScriptError

JVM_OPTIONS = frozenset(
    {
        "spark.driver.defaultJavaOptions",
        "spark.driver.extraClassPath",
        "spark.driver.extraJavaOptions",
        "spark.driver.extraLibraryPath",
        "spark.driver.userClassPathFirst",
        "spark.jars",
        "spark.jars.excludes",
        "spark.jars.ivySettings",
        "spark.jars.packages",
        "spark.jars.repositories",
    }
)
"""Not ``spark.driver.memory``: spark-submit ignores it in code as well, and the JVM has all the memory the
function can give. In a comment it is followed."""

IN_A_COMMENT = JVM_OPTIONS | {"spark.driver.memory"}
SETTERS = frozenset({"config", "set", "setIfMissing"})

_COMMENT = re.compile(r"^#\s*sparklet:\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """What a script asks for."""

    submit: bool = False  # only a JVM of its own will do
    conf: dict[str, str] = field(default_factory=dict)

    @property
    def heap(self) -> str:
        """The heap it wants, as Java takes it; "" = the usual one."""
        return self.conf.get("spark.driver.memory", "")

    @property
    def java_options(self) -> list[str]:
        """Further options for Java."""
        names = ("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions")
        library = self.conf.get("spark.driver.extraLibraryPath")
        paths = [f"-Djava.library.path={library}"] if library else []
        return [*paths, *(option for name in names for option in shlex.split(self.conf.get(name, "")))]

    @property
    def jars(self) -> list[str]:
        """What goes before Spark's own jars."""
        path = self.conf.get("spark.driver.extraClassPath")
        return [path] if path else []


def script_options(source: str) -> ScriptOptions:
    """What a script's text asks for; depends on nothing else.

    Raises
    ------
    ScriptError
        If a ``# sparklet:`` comment says something else than a runner or a ``spark.`` option, or contradicts itself.
    """
    asked = dict(_commented(source))
    runner = asked.pop("runner", "")
    jvm_options = sorted(IN_A_COMMENT.intersection(asked))
    if runner == "warm":
        if jvm_options:
            raise ScriptError(f"the script's comments ask for runner=warm and for {jvm_options[0]}, which needs submit")
        return ScriptOptions(conf=asked)
    seen = dict(_written_out(source)) if any(option in source for option in JVM_OPTIONS) else {}
    conf = {**{key: value for key, value in seen.items() if value is not None}, **asked}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(seen), conf)


def _commented(source: str) -> Iterator[tuple[str, str]]:
    for match in _COMMENT.finditer(source):
        key, equals, value = (part.strip() for part in match[1].partition("="))
        if not (equals and (key.startswith("spark.") or (key == "runner" and value in ("warm", "submit")))):
            line = source.count("\n", 0, match.start()) + 1
            raise ScriptError(
                f"line {line} of the script: '# sparklet: {match[1]}' must be runner=submit, runner=warm or spark.…=…"
            )
        yield key, value


def _written_out(source: str) -> Iterator[tuple[str, str | None]]:
    """JVM options in the code, each with its value if that is a plain string."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # it fails when it is run, with a better message
        return
    for node in ast.walk(tree):
        for key, value in _pairs(node):
            if isinstance(key, ast.Constant) and key.value in JVM_OPTIONS:
                plain = isinstance(value, ast.Constant) and isinstance(value.value, str)
                yield str(key.value), str(value.value) if plain and isinstance(value, ast.Constant) else None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Where code names an option and its value: ``.config(k, v)``, ``(k, v)``, ``{k: v}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        if node.func.attr in SETTERS:
            yield node.args[0], node.args[1]
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
