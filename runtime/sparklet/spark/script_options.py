"""The options that a script asks for in its own text; all runners follow them.

They are comments, anywhere, at the start of a line::

    # sparklet: runner=submit
    # sparklet: spark.driver.memory=3g
    # sparklet: spark.driver.extraJavaOptions=-Duser.language=de
    # sparklet: spark=4
    # sparklet: event=no
    # sparklet: unpack=no

``event`` decides whether the event is the script's last argument, ``--event``; ``unpack`` whether it is shown the files
in packed inputs. ``spark=4`` or ``spark=4.1`` refuses any other Spark. A script needs its own JVM if a comment, or a
literal in its code such as ``.config("spark.jars.packages", "group:artifact:1.0")``, has an option that only a new JVM
can take. It then gets one with those options. Both runners use the other options in comments, and with ``runner=warm``
a script stays on the warm JVM whatever its code has. What a literal names of the class path's jars, in any version or
spelling, is not asked for.
"""

import ast
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

from sparklet.errors import ScriptError
from sparklet.job.spark_lines import is_of, version_on
from sparklet.spark.runner import Output, ScriptCall

JVM_OPTIONS = frozenset(
    {
        *("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions", "spark.driver.extraLibraryPath"),
        *("spark.driver.extraClassPath", "spark.driver.userClassPathFirst", "spark.jars", "spark.jars.excludes"),
        *("spark.jars.ivySettings", "spark.jars.packages", "spark.jars.repositories"),
    }
)
"""Not ``spark.driver.memory``: spark-submit, too, ignores it in code, and the JVM has all the function's memory."""

IN_A_COMMENT = JVM_OPTIONS | {"spark.driver.memory"}
YES_NO = ("yes", "no")
EVENT_OPTION, EVENT_FILE_OPTION = "--event", "--event-file"
SETTERS = frozenset({"config", "set", "setIfMissing"})
JARS, PACKAGES = "spark.jars", "spark.jars.packages"
RENAMED = {"delta-core": "delta-spark", "aws-java-sdk-bundle": "aws-java-sdk-core"}  # the image has its modules

_COORDINATE = re.compile(r"([^:/\s]+)[:/]([^:/\s]+)[:/][^:/\s]+")  # as Spark reads it
_GROUP = re.compile(r"(?!.*\.jar$)[a-z]\w*(\.[a-z]\w*)+")
_VARIANT = re.compile(
    r"_\d+\.\d+|-\d.*|(?<=spark)[\d.]+"
)  # a line of Scala or Spark, the version, Spark's line in a name
_LINE = re.compile(r"\d+(\.\d+)?")
_EVENT = re.compile(r"--(event(?:-file)?)=?|(event(?:-file)?)=")  # argparse and click, sys.argv; getopt
_READS_ARGUMENTS = re.compile(r"\b(argv|argparse|click|docopt|fire|getopt|getResolvedOptions|optparse|typer)\b")
_COMMENT = re.compile(r"^#[ \t]*sparklet:(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """The options of a script."""

    submit: bool = False  # it needs its own JVM
    conf: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def warn(self, output: Output) -> None:
        """Write the warnings to the task's output."""
        for warning in self.warnings:
            output("stderr", f"sparklet: {warning}\n".encode())


def read_options(call: ScriptCall, jars: Callable[[], Sequence[str]]) -> ScriptOptions:
    """The options of a script and of its call; raises ScriptError if it cannot be read, or as ``script_options``."""
    try:
        return script_options(call.script.read_text(encoding="utf-8", errors="replace"), jars, call.conf)
    except OSError as error:
        raise ScriptError(f"{call.script} cannot be read: {error.strerror}") from error


def script_options(
    source: str, jars: Callable[[], Sequence[str]] = tuple, conf: Mapping[str, str] = {}
) -> ScriptOptions:
    """The options in a script's text, which runs with the class path ``jars``; ``conf`` wins over its comments.

    Raises ScriptError if a ``# sparklet:`` comment or a coordinate is wrong, or two comments contradict.
    """
    asked_for = {**commented(source), **conf}
    asked = asked_for.pop("spark", "")
    if asked and (version := version_on(jars())) and not is_of(version, asked):
        raise ScriptError(f"the script asks for Spark {asked} ('# sparklet: spark={asked}'), this worker has {version}")
    runner, *_ = (asked_for.pop(name, "") for name in ("runner", "event", "unpack"))
    jvm_options = sorted(IN_A_COMMENT.intersection(asked_for))
    if runner == "warm":
        if jvm_options:
            raise ScriptError(f"the script's comments ask for runner=warm and for {jvm_options[0]}, which needs submit")
        return ScriptOptions(conf=asked_for)
    warnings: list[str] = []
    literals = dict(_literals(source, jars, warnings)) if any(option in source for option in JVM_OPTIONS) else {}
    conf = {**{key: value for key, value in literals.items() if value is not None}, **asked_for}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(literals), conf, tuple(warnings))


def unpacks(source: str) -> bool:
    """Whether a script is shown what packed inputs hold, not these themselves."""
    return commented(source).get("unpack") != YES_NO[1]


def event_option(source: str, py_files: Sequence[Path]) -> str:
    """The option by which a script is given its event: ``--event``, ``--event-file`` (a path), or "".

    It is given none if it reads arguments, here or in its py-files, and names neither: a script that reads positions,
    or refuses what it does not know, would fail or write to a place of that name.
    """
    if chosen := commented(source).get("event"):
        return EVENT_OPTION if chosen == YES_NO[0] else ""
    modules = chain.from_iterable(_modules(path).values() for path in py_files)
    options = [_of_arguments(text) for text in (source, *modules)]
    if named := {option for option in options if option}:
        return EVENT_OPTION if EVENT_OPTION in named else EVENT_FILE_OPTION
    return "" if "" in options else EVENT_OPTION


def _of_arguments(source: str) -> str | None:
    """The option that code names, of all its texts, but not in a comment; None: it reads no arguments."""
    if not _READS_ARGUMENTS.search(source):
        return None
    if "event" not in source:
        return ""
    try:
        texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    except (SyntaxError, ValueError):  # running it fails with a better message
        return ""
    matches = [_EVENT.fullmatch(text) for text in texts if isinstance(text, str)]
    named = {f"--{match[1] or match[2]}" for match in matches if match}
    if "docopt" in source:
        named |= {match[0] for match in re.finditer(r"--event(-file)?\b", source)}
    return next((option for option in (EVENT_OPTION, EVENT_FILE_OPTION) if option in named), "")


@cache  # its path has the digest
def _modules(path: Path) -> Mapping[str, str]:
    """The sources in a py-file, by their names, without those of Sparklet's own library."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".py") and not name.startswith("sparklet/")]
            return {name: archive.read(name).decode(errors="replace") for name in names}
    return {path.name: path.read_text(encoding="utf-8", errors="replace")} if path.suffix == ".py" else {}


def whole_source(source: str, py_files: Sequence[Path]) -> str:
    """A script's text with those of all modules that come with it."""
    return "\n".join([source, *chain.from_iterable(_modules(path).values() for path in py_files)])


def module_names(py_files: Sequence[Path]) -> set[str]:
    """The names by which the modules and packages of py-files are imported."""
    return {name.split("/")[0].removesuffix(".py") for path in py_files for name in _modules(path)}


def _not_bundled(key: str, names: str, line: int, jars: Sequence[str], warnings: list[str]) -> str:
    """Those of ``names`` that no jar serves; a warning for each other. ScriptError for one that Spark would refuse."""
    unbundled = []
    for name in map(str.strip, names.split(",")):
        if jar := bundled(name, jars):
            warnings.append(f"line {line} of the script: {key} names {name}; {jar} is there and serves it")
        elif key == PACKAGES and not _COORDINATE.fullmatch(name):
            raise ScriptError(
                f"line {line} of the script: {key} names {name!r}, which is no jar of this worker and no coordinate; "
                "write group:artifact:version, such as org.postgresql:postgresql:42.7.4"
            )
        else:
            unbundled.append(name)
    return ",".join(unbundled)


def bundled(name: str, jars: Sequence[str]) -> str:
    """The jar that a coordinate, an artifact, a group or a jar's name means, in any version; "" if there is none."""
    coordinate, group = _COORDINATE.fullmatch(name), _GROUP.fullmatch(name)
    stem = _stem(coordinate[2] if coordinate else name.rpartition("." if group else ":")[2])
    if coordinate and "-" not in stem and stem not in coordinate[1].split("."):
        return ""  # a name that others use, too, such as ``core``
    names = (Path(jar).name for jar in jars)
    return next((jar for jar in names if _stem(jar) == stem or (group and _stem(jar).startswith(f"{stem}-"))), "")


def _stem(name: str) -> str:
    """``delta-spark`` for ``delta-spark_2.12-3.3.3.jar``, and for what it was called before."""
    stem = _VARIANT.sub("", name.rpartition("/")[2].removesuffix(".jar"))
    return RENAMED.get(stem, stem)


def commented(source: str) -> dict[str, str]:
    """What a script's comments ask for, by their keys; ScriptError if one is wrong."""
    options = dict[str, str]()
    for match in _COMMENT.finditer(source):
        key, equals, value = (part.strip() for part in match[1].partition("="))
        validity_by_key = {
            "runner": value in ("warm", "submit"),
            "spark": bool(_LINE.fullmatch(value)),
            "event": value in YES_NO,
        }
        validity_by_key["unpack"] = value in YES_NO
        if not (equals and validity_by_key.get(key, key.startswith("spark."))):
            line = source.count("\n", 0, match.start()) + 1
            raise ScriptError(
                f"line {line} of the script: '# sparklet: {match[1].strip()}' must be runner=submit, runner=warm, "
                "event=yes, event=no, unpack=yes, unpack=no, spark=4, spark=4.1 (or another line) or spark.…=…"
            )
        options[key] = value
    return options


def _literals(source: str, jars: Callable[[], Sequence[str]], warnings: list[str]) -> Iterator[tuple[str, str | None]]:
    """JVM options in the code that ask for what is not there, each with its value if that is a plain string."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # running it fails with a better message
        return
    for node in ast.walk(tree):
        for key, value in _pairs(node):
            if isinstance(key, ast.Constant) and key.value in JVM_OPTIONS:
                name, literal = str(key.value), value.value if isinstance(value, ast.Constant) else None
                if name in (JARS, PACKAGES) and literal:
                    literal = _not_bundled(name, str(literal), key.lineno, jars(), warnings)
                if literal != "":
                    yield name, literal if isinstance(literal, str) else None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Where code names an option and its value: ``.config(k, v)``, ``(k, v)``, ``{k: v}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        if node.func.attr in SETTERS:
            yield node.args[0], node.args[1]
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
