"""Reads the text of scripts, and of the modules that come with them; no other module does.

Comments at the start of any line set options::

    # sparklet: runner=submit
    # sparklet: spark.driver.memory=3g
    # sparklet: spark=4
    # sparklet: event=no
    # sparklet: unpack=no

``event`` sets whether the script gets its event as the last argument, ``--event``; ``unpack`` whether it gets the files
in packed inputs or the archives; ``spark=4`` or ``spark=4.1`` refuses any other Spark; ``script_options`` has the rest.

What a script *does* is observed while it runs (``script_acts``, ``TaskS3A``). Its text is searched for acts that cannot
be observed, and for facts that must be known before. Each fact is computed once, when it is first needed: a worker has
one ``Script`` for all tasks with the same file.
"""

import ast
import io
import re
import sys
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import decode_source
from itertools import chain
from pathlib import Path
from typing import Any

from sparklet.errors import ScriptError

YES_NO = YES, NO = "yes", "no"
EVENT_OPTION, EVENT_FILE_OPTION = "--event", "--event-file"
JVM_OPTIONS = frozenset(
    {
        *("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions", "spark.driver.extraLibraryPath"),
        *("spark.driver.extraClassPath", "spark.driver.userClassPathFirst", "spark.jars", "spark.jars.excludes"),
        *("spark.jars.ivySettings", "spark.jars.packages", "spark.jars.repositories"),
    }
)
"""Options that only a new JVM can take.

``spark.driver.memory`` is not one: spark-submit ignores it in code as well, and the JVM has all the function's memory.
"""

SETTERS = frozenset({"config", "set", "setIfMissing"})

_SPARK_VERSION = re.compile(r"\d+(\.\d+)?")
_EVENT = re.compile(r"--(event(?:-file)?)=?|(event(?:-file)?)=")  # as in argparse, click and sys.argv; as in getopt
_READS_ARGUMENTS = re.compile(r"\b(argv|argparse|click|docopt|fire|getopt|getResolvedOptions|optparse|typer)\b")
_COMMENT = re.compile(r"^#[ \t]*sparklet:(.*)$", re.MULTILINE)
# Readers' options with which rows need not end at line feeds, where objects are cut.
_OTHER_ROWS = re.compile(r"(?ai)multiLine|wholetext|lineSep|record\.delimiter|utf[-_]?(16|32)")
_NAME_FILTER = re.compile(r"(?ai)pathGlobFilter")  # a reader's option that filters files by their names
_BASE_PATH = re.compile(r"(?ai)basePath")  # a reader's option that gives files found by a pattern their partitions, too
# Methods that can bring rows of several inputs together; not the join of a string or of paths.
_MIXING = re.compile(
    r"(?<=\.)(?<![\"']\.)(?<!path\.)(agg|coalesce|cache|createDataFrame|distinct|drop_?[dD]uplicates|except\w*|group\w*"
    r"|intersect\w*|join|limit|orderBy|persist|pivot|repartition\w*|sort|sortBy\w*|subtract|toDF)\("
)
# Places that Spark's JVM, Python workers or pandas (in C) can reach without being observed.
_UNOBSERVED = re.compile(
    r"(?i)jdbc|kafka|snowflake|mongo|elasticsearch|\.foreach|\b_jvm\b(?!\.org\.apache\.log4j)|S3FileIO|io-impl"
    r"|(?<![\"'])\.format\(\s*[\"'](?!(parquet|csv|json|orc|avro|text|delta|hudi|xml|binaryFile|console|memory|noop)[\"'])"
    r"|\b(?!(s3[an]?|file|https?|spark|k8s):)[a-z][\w+.-]*://|(pandas|pyarrow)[\s\S]*://"
)
# Writes to tables, whose catalog can put them anywhere.
_TABLE_WRITES = re.compile(
    r"(?i)writeTo\(|insertInto|saveAsTable|write_dynamic_frame|writeFrame"
    r"|\b(insert|merge|create|delete|replace|update)\s+(or\s+replace\s+)?(into|overwrite|table|from|\S+\s+set)\b"
)
# Python's own ways to other processes and machines, which are not observed in Spark's Python workers.
_PYTHONS_OWN_WAYS = re.compile(
    r"\b(subprocess|socket|asyncio|ctypes|importlib|smtplib|ftplib|xmlrpc|http\.client|urllib\.request)\b"
    r"|os\.(system|popen|exec|spawn|posix)"
)
_READS_UNOBSERVED = re.compile(r"textFile|hadoopFile|hadoopDataset|HadoopRDD|binaryFiles|sequenceFile|pandas|pyarrow")
_KNOWN = {*sys.stdlib_module_names, "pyspark", "py4j", "sparklet", "awsglue", "awsgluedq", "numpy", "pandas", "pyarrow"}
_PLAIN_DELTA = re.compile(
    r"""(?s)(?!.*\bjob\.(?:append|upsert|overwrite_partitions)\b).*(?:\bformat\(\s*["']|\b(?i:using)\s+)delta\b"""
)


@dataclass(frozen=True)
class Script:
    """The content of a script, and its author's py-files.

    Methods with ``params`` also search the run's parameters, given as JSON, since they may name readers' options.
    """

    body: bytes
    py_files: tuple[Path, ...] = ()

    @cached_property
    def text(self) -> str:
        """The text as Python decodes it (by its byte order mark or coding comment), with line feeds as line ends."""
        try:
            return decode_source(self.body)
        except (SyntaxError, LookupError, ValueError):  # Python will refuse the script with a better message
            return self.body.decode(errors="replace")

    @cached_property
    def modules(self) -> Sequence[tuple[str, str]]:
        """The names and texts of the modules in the py-files, without those of Sparklet's own library."""
        sources = list[tuple[str, bytes]]()
        for path in self.py_files:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    names = [name for name in archive.namelist() if name.endswith(".py")]
                    sources += ((name, archive.read(name)) for name in names if not name.startswith("sparklet/"))
            elif path.suffix == ".py":
                sources.append((path.name, path.read_bytes()))
        return [(name, Script(source).text) for name, source in sources]

    # --- checks before a run ---

    def syntax_error(self, source: str) -> str:
        """Why Python cannot compile the script, which was read from ``source``; "" if it can."""
        try:
            with warnings.catch_warnings():
                # A setting that turns warnings into errors in this process must not refuse the script.
                warnings.simplefilter("ignore")
                compile(self.body, source, "exec", dont_inherit=True)
        except SyntaxError as error:
            text, line = f": {error.text.strip()}" if error.text else "", error.lineno or 1
            return f"the script {source} cannot be compiled, line {line}: {error.msg}{text}"
        # Python 3.11 raises this, not SyntaxError, for a null byte.
        except ValueError as error:
            return f"the script {source} cannot be compiled: {error}"
        return ""

    @property
    def imports(self) -> Iterator[str]:
        """The top-level names of the modules that the script imports anywhere in its text."""
        for node in _nodes(self.text):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                    yield node.args[0].value.partition(".")[0]

    # --- what the script asks for ---

    @cached_property
    def comments(self) -> Mapping[str, str]:
        """The options in the script's comments, by their keys; ScriptError if one is wrong."""
        options = dict[str, str]()
        for match in _COMMENT.finditer(self.text):
            key, equals, value = (part.strip() for part in match[1].partition("="))
            is_valid = {
                "runner": value in ("warm", "submit"),
                "spark": bool(_SPARK_VERSION.fullmatch(value)),
                "event": value in YES_NO,
                "unpack": value in YES_NO,
            }
            if not (equals and is_valid.get(key, key.startswith("spark."))):
                line = self.text.count("\n", 0, match.start()) + 1
                raise ScriptError(
                    f"line {line} of the script: '# sparklet: {match[1].strip()}' must be runner=submit, runner=warm, "
                    "event=yes, event=no, unpack=yes, unpack=no, spark=4, spark=4.1 (or another line) or spark.…=…"
                )
            options[key] = value
        return options

    @property
    def unpacks(self) -> bool:
        """Whether the script gets the content of packed inputs, not the archives themselves."""
        return self.comments.get("unpack") != NO

    @cached_property
    def event_option(self) -> str:
        """The option by which the script gets its event: ``--event``, or ``--event-file`` (a path); "" if it gets none.

        It gets none if it or its py-files read arguments but name neither option: a script that reads positional
        arguments, or refuses unknown ones, would fail or write to a place of that name.
        """
        if choice := self.comments.get("event"):
            return EVENT_OPTION if choice == YES else ""
        options = [_event_option_in(text) for text in (self.text, *(text for _, text in self.modules))]
        if named_options := {option for option in options if option}:
            return EVENT_OPTION if EVENT_OPTION in named_options else EVENT_FILE_OPTION
        return "" if "" in options else EVENT_OPTION

    @property
    def asks_for_folders(self) -> bool:
        """Whether the script uses ``input_folders``, the folders of its inputs."""
        return "input_folders" in self.text

    def names_folder(self, folder: str) -> bool:
        """Whether the script has a path with the last part of the folder's address."""
        name = re.escape(folder.rstrip("/").rpartition("/")[2])
        return re.search(f"[\"'/]{name}[\"'/]", self.text) is not None

    @property
    def infers_a_schema(self) -> bool:
        """Whether the script calls ``job.read_csv``, ``job.read_json`` or ``job.read_parquet``."""
        return any(f".read_{name}(" in self.text for name in ("csv", "json", "parquet"))

    # --- the options with which the script may read ---

    @property
    def option_of_rows(self) -> str:
        """A reader's option with which rows need not end at line ends; "" if the script has none."""
        option = _OTHER_ROWS.search(self.text)
        return option[0] if option else ""

    def filters_names(self, params: str) -> bool:
        """Whether a reader may choose files by their names."""
        return _NAME_FILTER.search(self.text + params) is not None

    def may_set_base_path(self, params: str) -> bool:
        """Whether a reader may have a base path. True if there are py-files, which are not searched."""
        return bool(self.py_files) or _BASE_PATH.search(self.text + params) is not None

    @property
    def has_base_path(self) -> bool:
        """Whether the script's own text has the reader's option ``basePath``."""
        return "basePath" in self.text

    def numbers_rows(self, params: str) -> bool:
        """Whether the script may use ``row_index``, the number of a row in its file."""
        return "row_index" in self.text + params

    # --- what the script may do without being observed ---

    @cached_property
    def whole_text(self) -> str:
        """The texts of the script and of all its modules, joined."""
        return "\n".join((self.text, *(text for _, text in self.modules)))

    @cached_property
    def code(self) -> str:
        """The whole text without its comments."""
        lines = self.whole_text.split("\n")
        try:
            for token in tokenize.generate_tokens(io.StringIO(self.whole_text).readline):
                if token.type == tokenize.COMMENT:
                    row, column = token.start
                    lines[row - 1] = lines[row - 1][:column]
        except (SyntaxError, tokenize.TokenError, IndexError):  # joined texts may have indents that do not fit
            return self.whole_text
        return "\n".join(lines)

    @cached_property
    def may_reach_unobserved(self) -> bool:
        """Whether the script may write or read where neither Spark's classes nor the hooks in its process notice."""
        return _UNOBSERVED.search(self.code) is not None

    def may_write_unobserved(self, words: str) -> bool:
        """Whether the script may write where the worker cannot observe it.

        These are the places of ``may_reach_unobserved``, tables, Python's own ways to other processes and machines, and
        imports of unknown modules. ``words`` has the parameters, arguments and variables as one text.
        """
        own_modules = {name.split("/")[0].removesuffix(".py") for name, _ in self.modules}
        modules = "|".join(map(re.escape, {*_KNOWN, *own_modules}))
        unknown_import = rf"(?m)^\s*(import\s+([\w. ]+,\s*)*|from\s+(?=[\w.]+\s+import\b))(?!({modules})\b)\w"
        text = f"{self.code}\n{words}"
        return any(
            re.search(pattern, text) for pattern in (unknown_import, _UNOBSERVED, _TABLE_WRITES, _PYTHONS_OWN_WAYS)
        )

    def may_read_again(self, lines: Sequence[int]) -> bool:
        """Whether the file that these lines name may be read again in a way that is not observed."""
        return len(lines) > 1 and _READS_UNOBSERVED.search(self.whole_text) is not None

    @property
    def commits_delta_itself(self) -> bool:
        """Whether the script writes or reads Delta tables without ``sparklet.job``'s methods for tables."""
        return _PLAIN_DELTA.match(self.text) is not None

    # --- lines of the script ---

    def lines_with(self, name: str) -> list[int]:
        """The numbers of the lines with a string literal that contains ``name`` as a whole word."""
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        constants = (node for node in _nodes(self.whole_text) if isinstance(node, ast.Constant))
        return sorted(node.lineno for node in constants if isinstance(node.value, str) and word.search(node.value))

    @property
    def mixing(self) -> tuple[int, str]:
        """The first line that may bring rows of several inputs together, and its method; 0 and "" if there is none."""
        for number, line in enumerate(self.text.splitlines(), 1):
            if match := _MIXING.search(line):
                return number, match[1]
        return 0, ""

    @cached_property
    def jvm_settings(self) -> Sequence[tuple[str, Any, int]]:
        """The settings of ``JVM_OPTIONS`` in the code: name, value (None if that is not a literal) and line."""
        if not any(name in self.text for name in JVM_OPTIONS):
            return ()
        return [
            (str(key.value), value.value if isinstance(value, ast.Constant) else None, key.lineno)
            for key, value in chain.from_iterable(map(_option_pairs, _nodes(self.text)))
            if isinstance(key, ast.Constant) and key.value in JVM_OPTIONS
        ]


def _event_option_in(text: str) -> str | None:
    """The option by which a script takes its event (--event or --event-file), if a string literal names one.

    "" if it reads arguments but names neither option; None if it reads no arguments.
    """
    if not _READS_ARGUMENTS.search(text):
        return None
    if "event" not in text:
        return ""
    values = (node.value for node in _nodes(text) if isinstance(node, ast.Constant))
    matches = [_EVENT.fullmatch(value) for value in values if isinstance(value, str)]
    named_options = {f"--{match[1] or match[2]}" for match in matches if match}
    # docopt reads its options from the usage text, so they are not literals of their own.
    if "docopt" in text:
        named_options |= {match[0] for match in re.finditer(r"--event(-file)?\b", text)}
    return next((option for option in (EVENT_OPTION, EVENT_FILE_OPTION) if option in named_options), "")


def _nodes(text: str) -> Iterator[ast.AST]:
    """The syntax nodes of a source; none if it cannot be parsed, since running it fails with a better message."""
    try:
        return ast.walk(ast.parse(text))
    except (SyntaxError, ValueError):
        return iter(())


def _option_pairs(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """The names and values of options that a node sets, as ``.config(k, v)``, ``(k, v)`` or ``{k: v}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        if node.func.attr in SETTERS:
            yield node.args[0], node.args[1]
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
