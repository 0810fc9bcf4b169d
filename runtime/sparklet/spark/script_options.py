"""The JVM options that a script sets in its own text; all runners follow them.

Options are comments at the start of a line (see ``script``), such as ``# sparklet: runner=submit``,
``# sparklet: spark.driver.memory=3g`` or ``# sparklet: spark.driver.extraJavaOptions=-Duser.language=de``. Some options
can only be set when a JVM starts. If a comment has such an option, or a literal in the code, as in
``.config("spark.jars.packages", "group:artifact:1.0")``, the script gets a JVM of its own with these options. Both
runners use the other options in comments. With ``runner=warm`` a script stays on the warm JVM, whatever its code has.
A jar that a literal names needs no new JVM if it is on the class path, in any version or spelling.
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
RENAMED = {"delta-core": "delta-spark", "aws-java-sdk-bundle": "aws-java-sdk-core"}  # the image has the SDK's modules

_COORDINATE = re.compile(r"([^:/\s]+)[:/]([^:/\s]+)[:/][^:/\s]+")  # as Spark reads it
_GROUP = re.compile(r"(?!.*\.jar$)[a-z]\w*(\.[a-z]\w*)+")
_VARIANT = re.compile(
    r"_\d+\.\d+|-\d.*|(?<=spark)[\d.]+"
)  # Scala's or Spark's version, the jar's own version, Spark's version behind "spark"


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """The options of a script."""

    submit: bool = False  # whether the script needs its own JVM
    conf: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def warn(self, output: Output) -> None:
        """Write the warnings to the task's output."""
        for warning in self.warnings:
            output("stderr", f"sparklet: {warning}\n".encode())


def script_options(
    script: Script, jars: Callable[[], Sequence[str]] = tuple, conf: Mapping[str, str] = {}
) -> ScriptOptions:
    """The options in a script's text. ``jars`` returns the class path; ``conf`` wins over the script's comments.

    Raises ScriptError if a ``# sparklet:`` comment or a coordinate is wrong, or two comments contradict each other.
    """
    options = {**script.comments, **conf}
    wanted_spark = options.pop("spark", "")
    if wanted_spark and (version := version_on(jars())) and not is_of(version, wanted_spark):
        raise ScriptError(
            f"the script asks for Spark {wanted_spark} ('# sparklet: spark={wanted_spark}'), this worker has {version}"
        )
    runner, *_ = (options.pop(name, "") for name in ("runner", "event", "unpack"))
    jvm_options = sorted(IN_A_COMMENT.intersection(options))
    if runner == "warm":
        if jvm_options:
            raise ScriptError(f"the script's comments ask for runner=warm and for {jvm_options[0]}, which needs submit")
        return ScriptOptions(conf=options)
    warnings: list[str] = []
    literals = dict(_literals(script, jars, warnings))
    conf = {**{key: value for key, value in literals.items() if value is not None}, **options}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(literals), conf, tuple(warnings))


def _unbundled_names(key: str, names: str, line: int, jars: Sequence[str], warnings: list[str]) -> str:
    """The names that no jar of the class path serves; each other name adds a warning.

    Raises ScriptError for a name that Spark would refuse.
    """
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
    """The jar of the class path that a coordinate, an artifact, a group or a jar's name means, in any version.

    "" if there is none.
    """
    coordinate, group = _COORDINATE.fullmatch(name), _GROUP.fullmatch(name)
    stem = _stem(coordinate[2] if coordinate else name.rpartition("." if group else ":")[2])
    if coordinate and "-" not in stem and stem not in coordinate[1].split("."):
        return ""  # the artifact's name, such as ``core``, does not identify it, since other groups use it as well
    names = (Path(jar).name for jar in jars)
    return next((jar for jar in names if _stem(jar) == stem or (group and _stem(jar).startswith(f"{stem}-"))), "")


def _stem(name: str) -> str:
    """A jar's name without versions, and by today's name: ``delta-spark`` for ``delta-spark_2.12-3.3.3.jar``."""
    stem = _VARIANT.sub("", name.rpartition("/")[2].removesuffix(".jar"))
    return RENAMED.get(stem, stem)


def _literals(
    script: Script, jars: Callable[[], Sequence[str]], warnings: list[str]
) -> Iterator[tuple[str, str | None]]:
    """The JVM options in the code that need a new JVM, each with its value, or None if that is not a plain string."""
    for name, literal, line in script.jvm_settings:
        if name in (JARS, PACKAGES) and literal:
            literal = _unbundled_names(name, str(literal), line, jars(), warnings)
        if literal != "":
            yield name, literal if isinstance(literal, str) else None
