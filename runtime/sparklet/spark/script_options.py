"""The options of the JVM that a script asks for in its own text; all runners follow them.

They are comments at the start of a line (see ``script``), such as ``# sparklet: runner=submit``,
``# sparklet: spark.driver.memory=3g`` or ``# sparklet: spark.driver.extraJavaOptions=-Duser.language=de``. A script
needs its own JVM if a comment, or a literal in its code such as ``.config("spark.jars.packages",
"group:artifact:1.0")``, has an option that only a new JVM can take. It then gets one with those options. Both runners
use the other options in comments, and with ``runner=warm`` a script stays on the warm JVM whatever its code has. What a
literal names of the class path's jars, in any version or spelling, is not asked for.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparklet.errors import ScriptError
from sparklet.job.spark_lines import is_of, version_on
from sparklet.spark.runner import Output
from sparklet.spark.script import JVM_OPTIONS, Script

IN_A_COMMENT = JVM_OPTIONS | {"spark.driver.memory"}
JARS, PACKAGES = "spark.jars", "spark.jars.packages"
RENAMED = {"delta-core": "delta-spark", "aws-java-sdk-bundle": "aws-java-sdk-core"}  # the image has its modules

_COORDINATE = re.compile(r"([^:/\s]+)[:/]([^:/\s]+)[:/][^:/\s]+")  # as Spark reads it
_GROUP = re.compile(r"(?!.*\.jar$)[a-z]\w*(\.[a-z]\w*)+")
_VARIANT = re.compile(
    r"_\d+\.\d+|-\d.*|(?<=spark)[\d.]+"
)  # a line of Scala or Spark, the version, Spark's line in a name


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


def script_options(
    script: Script, jars: Callable[[], Sequence[str]] = tuple, conf: Mapping[str, str] = {}
) -> ScriptOptions:
    """The options in a script's text, which runs with the class path ``jars``; ``conf`` wins over its comments.

    Raises ScriptError if a ``# sparklet:`` comment or a coordinate is wrong, or two comments contradict.
    """
    asked_for = {**script.comments, **conf}
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
    literals = dict(_literals(script, jars, warnings))
    conf = {**{key: value for key, value in literals.items() if value is not None}, **asked_for}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(literals), conf, tuple(warnings))


def _not_bundled(key: str, names: str, line: int, jars: Sequence[str], warnings: list[str]) -> str:
    """Those of ``names`` that no jar serves; a warning for each other. ScriptError for one that Spark would refuse."""
    unbundled = []
    for name in map(str.strip, names.split(",")):
        if jar := bundled(name, jars):
            warnings.append(f"line {line} of the script: {key} names {name}; {jar} is there and serves it")
        elif key == PACKAGES and not _COORDINATE.fullmatch(name):
            raise ScriptError(
                f"line {line} of the script: {key} names {name!r}, neither a jar of this worker nor a coordinate; "
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


def _literals(
    script: Script, jars: Callable[[], Sequence[str]], warnings: list[str]
) -> Iterator[tuple[str, str | None]]:
    """JVM options in the code that ask for what is not there, each with its value if that is a plain string."""
    for name, literal, line in script.jvm_settings:
        if name in (JARS, PACKAGES) and literal:
            literal = _not_bundled(name, str(literal), line, jars(), warnings)
        if literal != "":
            yield name, literal if isinstance(literal, str) else None
