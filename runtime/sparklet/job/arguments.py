"""``Job``: a script's arguments, its event, and what it reports."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sparklet.job.annexes import CatalogTables, DatabaseAccess, StreamRecords, TableWrites
from sparklet.job.errors import EventError
from sparklet.job.event_objects import escaped, event_objects, misread, returning_messages, text_at
from sparklet.job.fields import INFER, SCHEMA
from sparklet.job.outcome import EVENT, Outcome

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


MAX_QUOTED = 120  # characters of a wrong document, in an error
MAX_CAUSE = 1000  # characters, of the cause of a failed message
FILE_SCHEME = "file://"
_TIME = "HH:mm[:ss][.SSSSSSSSS][XXX]"
# For ``read_csv``. Spark's default formats cut the time of day off a date, and read 12:30 alone as a time of today.
STRICT = {
    "header": True,
    "enforceSchema": False,
    "mode": "FAILFAST",
    # As in RFC 4180, Excel and Python. With a backslash, Spark's default, doubled quotes stay doubled, or a value is
    # cut at a comma.
    "escape": '"',
    "dateFormat": "yyyy-M-d",
    "timestampFormat": f"yyyy-M-d[ {_TIME}]['T'{_TIME}]",
}


class PreviousAttempt(NamedTuple):
    """How the previous attempt at a shard ended.

    ``number`` is 0 if that attempt was in an earlier generation of the run. ``commit_state`` is ``"unknown"`` if it was
    lost or stopped at its deadline: a table might or might not have its direct commits. Else ``commit_state`` is None.
    """

    number: int
    error_class: str
    message: str
    commit_state: str | None


@dataclass(frozen=True)
class Job(StreamRecords, TableWrites, DatabaseAccess):
    """One script's task: what it works with (``JobFields``), and what it reports."""

    def __post_init__(self) -> None:
        """Make ``table`` a text that can be called, see ``CatalogTables``."""
        table = CatalogTables(self.table or "")
        table.job = self
        object.__setattr__(self, "table", table)

    @classmethod
    def from_args(cls, argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> Job:
        """Read ``argv`` (default: the process's own arguments) and the environment.

        Unknown arguments, such as Glue's ``--JOB_NAME``, end up in ``args``. Without ``--event`` the event is read from
        the environment, where a worker puts it.

        Raises
        ------
        EventError
            If ``--event`` is malformed, or event and arguments name different inputs or outputs.
        """
        parsed, rest = _command_line().parse_known_args(sys.argv[1:] if argv is None else list(argv))
        event_text = env.get(EVENT) if parsed.event is None else parsed.event
        event = {} if event_text is None else _read_event(event_text)
        fields = event if isinstance(event, Mapping) else {}
        has_inputs = fields.get("inputs") is not None or bool(fields.get("input_path"))
        objects = () if has_inputs else event_objects(event)  # the objects that an S3 notification names
        inputs = _one_source("input", objects or _event_inputs(fields), tuple(parsed.input))
        env_input, env_output = (env.get(name) or env.get(name.upper()) for name in ("input_path", "output_path"))
        input_path = _text(fields, "input_path") or next(iter(parsed.input), None) or env_input
        output_path = _one_source("output", _text(fields, "output_path"), parsed.output) or env_output
        shard = _shard_fields(_object(fields, "sparklet"))
        return cls(
            event=event,
            inputs=inputs,
            input_path=input_path or None,
            output_path=output_path or None,
            params={**_object(fields, "params"), **dict(parsed.param)},
            # Outside a run an event's field ``table`` may mean something else.
            table=_one_source("table", _text(fields, "table") if shard else None, parsed.table),
            args=tuple(rest),
            exact_names=bool(objects) or "run_id" in shard,
            outcome=Outcome.of_environment(env),
            **shard,
        )

    @property
    def state(self) -> dict[str, Any]:
        """What the previous call in this tumbling window of a stream has kept with ``keep_state``; ``{}`` in the first.

        ``event["window"]`` names the window; ``event["isFinalInvokeForWindow"]`` is true in its last call.
        """
        state = self.event.get("state") if isinstance(self.event, Mapping) else None
        return dict(state) if isinstance(state, Mapping) else {}

    @property
    def items(self) -> list[Any]:
        """This shard's items in a run over items, as in their list (a CSV row is a dict); in other runs ``[]``."""
        items = self.event.get("items") if isinstance(self.event, Mapping) else None
        return list(items) if isinstance(items, list) else []

    @property
    def previous_attempt(self) -> PreviousAttempt | None:
        """How the previous attempt at this shard ended; None in the first attempt."""
        fields = self.event.get("sparklet") if isinstance(self.event, Mapping) else None
        previous = fields.get("previous_attempt") if isinstance(fields, Mapping) else None
        return PreviousAttempt(**previous) if previous else None

    def input_list(self) -> list[str]:
        """Return the inputs as a list for ``spark.read``.

        The inputs of a shard or of an S3 event are exact names of objects, so ``*?[]{}`` in them are escaped. An
        ``--input 'folder/*.csv'`` stays a glob.

        Raises
        ------
        EventError
            If there are no inputs, or if Spark would skip an input or read another object.
        """
        if not self.inputs:
            raise EventError("no inputs: pass --input URI (as often as you like), or inputs in the event")
        if not self.exact_names:
            return list(self.inputs)
        for uri in self.inputs:
            if why := misread(uri, patterns=""):
                raise EventError(f"the input {uri!r} would not be read: {why}; rename it, or exclude it")
        return [escaped(uri) for uri in self.inputs]

    def read_csv(self, spark: SparkSession, schema: str | None = None, **options: Any) -> DataFrame:
        """Read the inputs as CSV with a header, with the same columns and types in every shard.

        With a schema, the job fails at a file with another header and at a line that does not fit. By default Spark
        would match columns by position, and read null for such a value. A date is written ``2026-01-02``. A
        timestamp is a date, alone or with a time behind a space or a ``T``: ``13:45``, with or without seconds,
        fractions and an offset. Other formats need ``dateFormat`` or ``timestampFormat``. Quotes in a quoted value are
        doubled, as in RFC 4180; a file that escapes them by a backslash, Spark's default, fails the job, unless the
        option ``escape`` names the backslash.

        Parameters
        ----------
        schema
            DDL text. Default: the run's schema, ``params["schema"]``. Without any schema every column is text, since
            types inferred from one shard could differ from another shard's. With ``infer`` the job's answer is the
            schema of these inputs, and the script ends here.
        options
            Options of Spark's reader, which take precedence.

        Raises
        ------
        EventError
            As for ``input_list``.
        """
        from sparklet.job.csv_schema import infer_schema, read

        # This option lets Spark fail even in the mode PERMISSIVE, so it is left out if the script chooses a mode.
        quotes = {} if "mode" in options else {"unescapedQuoteHandling": "RAISE_ERROR"}
        schema, options = schema or self.params.get(SCHEMA), {**STRICT, **quotes, **options}
        if schema == INFER:
            self.answer(infer_schema(spark, self.input_list(), options))
            sys.exit()
        return read(spark, self.input_list(), schema, options)

    def read_json(self, spark: SparkSession, schema: str | None = None, **options: Any) -> DataFrame:
        """Read the inputs as JSON Lines, by the same schema as ``read_csv``; a missing key is null.

        The check of the keys reads the inputs once more. A run needs a schema; outside a run Spark infers one. Keys
        that differ only in upper and lower case are different keys; an inferred schema has the spelling of most files.

        Raises
        ------
        DriftError
            If a file has a key that the schema lacks, also in an inner object; with ``--allow-drift`` only a warning.
        EventError
            As for ``input_list``; also if a run has no schema.
        """
        from sparklet.job.reading import read

        return read(self, self.input_list(), spark, "json", schema, {**STRICT, **options})

    def read_parquet(self, spark: SparkSession, schema: str | None = None, **options: Any) -> DataFrame:
        """Read the inputs as Parquet by the same schema as ``read_csv``, matched by name; a missing column is null.

        Without a schema the frame has all columns of this shard's files (``mergeSchema``).

        Raises
        ------
        DriftError
            If a file has a column that the schema lacks, or of another type; with ``--allow-drift`` only a warning.
        EventError
            As for ``input_list``.
        """
        from sparklet.job.reading import read

        return read(self, self.input_list(), spark, "parquet", schema, {"mergeSchema": True, **options})

    def figures(self, spark: SparkSession | None = None) -> dict[str, Any]:
        """Return the statistics of the run that a check script checks, such as ``output``, ``rows`` and ``counts``.

        ``spark`` is needed only outside a run, where no worker has fetched the document.

        Raises
        ------
        EventError
            If the input is not such a document.
        """
        if not (uri := self.input_path):
            raise EventError(
                "there are no statistics of a run: a check script (--check) gets them as its input; to try it, pass "
                "--input FILE"
            )
        try:
            document = json.loads(_content(uri, spark))
        except (OSError, ValueError) as error:
            raise EventError(f"{uri} holds no statistics of a run: {error}") from error
        if not isinstance(document, dict) or not {"id", "output", "counts"} <= document.keys():
            raise EventError(f"{uri} holds no statistics of a run: it has no id, output and counts")
        return document

    def spark(self, app_name: str | None = None, conf: Mapping[str, str] | None = None) -> SparkSession:
        """Return a SparkSession with the right settings for the place where the script runs.

        Sparklet's defaults are UTC as the session's time zone, S3A for ``s3://`` on Lambda and on a laptop, and
        extensions and catalogs of the table formats whose jars are on the class path. Iceberg's catalog ``iceberg`` is
        the one that pyiceberg's variables name (``PYICEBERG_CATALOG__ICEBERG__TYPE``, …). Without these variables its
        warehouse is ``params["warehouse"]``; without that, too, it is the output, but only outside a run.

        Parameters
        ----------
        app_name
            Default: the script's name, with run and shard.
        conf
            Spark options, static ones too. They take precedence over the options of spark-submit, spark-defaults.conf
            or the cluster, which take precedence over Sparklet's defaults.
        """
        from sparklet.job.session import spark_session  # needs pyspark: only a script that calls this does

        # A shard's output is moved when it is published, but Iceberg's files hold their own addresses.
        warehouse = self.params.get("warehouse") or (self.output_path if self.shard is None else None)
        return spark_session(app_name or self._app_name(), conf or {}, warehouse)

    def report(self, *, rows: int | None = None, output_bytes: int | None = None, outputs: Iterable[str] = ()) -> None:
        """Report written data to the worker; the ledger keeps the totals with the shard.

        Call it once for each output: the numbers of all calls are added, and a repeated uri counts once. Outside a
        worker the totals are printed to standard error.

        Parameters
        ----------
        rows
            The number of rows written.
        output_bytes
            The number of bytes stored, see ``stored_bytes``.
        outputs
            The uris of what was written.
        """
        self.outcome.add(rows, output_bytes, outputs)

    def answer(self, document: Any) -> None:
        """Set the job's answer: what a Step Functions task, a direct invocation or an API request returns.

        In a run the answers of all shards are the run's results (``sparklet results``). Of several calls the last one
        counts.

        Parameters
        ----------
        document
            Any JSON value of at most 6 MB, in a run 256 KiB. For an API it is the response's JSON body, or the whole
            response if it has a ``statusCode``.

        Raises
        ------
        ValueError, TypeError
            If the document is larger, or is not a JSON value.
        """
        self.outcome.answer(document)

    def fail_message(self, message_id: str, cause: str) -> list[str]:
        """Report an SQS message as failed, so that SQS delivers it again; the event's other messages are done.

        Return the ids of all messages that are delivered again: from a FIFO queue also the later ones of the same
        group. Call it before writes to tables: they leave out the rows that ``records`` has made of these messages.

        Raises
        ------
        EventError
            If the event holds no such message.
        """
        records = self.event.get("Records") if isinstance(self.event, Mapping) else None
        messages = [record for record in records or () if text_at(record, "eventSource") == "aws:sqs"]
        if message_id not in [message["messageId"] for message in messages]:
            raise EventError(f"the event has no SQS message {_quoted(message_id)} that could be reported as failed")
        causes = {message_id: str(cause)[:MAX_CAUSE], **self.outcome.totals.get("failed", {})}
        returning = returning_messages(messages, causes)
        self.outcome.give("failed", returning)
        return list(returning)

    def keep_state(self, state: Mapping[str, Any]) -> None:
        """Keep a state for the next call in the same tumbling window, which reads it as ``job.state``.

        If the script does not call this, the window's state does not change.

        Parameters
        ----------
        state
            A JSON object of at most 1 MB.

        Raises
        ------
        ValueError, TypeError
            If the state is larger, or is not a JSON object.
        """
        self.outcome.keep_state(state)

    def _app_name(self) -> str:
        name = Path(sys.argv[0]).stem or "sparklet"
        if self.run_id is None:
            return name
        return f"{name} {self.run_id}" if self.shard is None else f"{name} {self.run_id}/{self.shard}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EventError(f"the script's arguments: {message}")


def _command_line() -> argparse.ArgumentParser:
    parser = _Parser(allow_abbrev=False, description="Arguments that sparklet.job reads; others are the script's own.")
    parser.add_argument("--event", metavar="JSON|@FILE", help="the event, or the file that holds it")
    parser.add_argument("--input", action="append", default=[], metavar="URI", help="read this; may be repeated")
    parser.add_argument("--output", metavar="URI", help="write here")
    parser.add_argument("--table", metavar="FORMAT:PLACE", help="append to this table")
    parser.add_argument("--param", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="a parameter")
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must look like key=value")
    return key, value


def _read_event(argument: str) -> Any:
    source, text = "--event", argument
    if argument.startswith("@"):
        source = f"--event {argument}"
        try:
            text = Path(argument[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EventError(f"{source}: the file cannot be read: {error}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        quoted = text[:MAX_QUOTED]
        raise EventError(f"{source}: not JSON ({error}): {quoted!r}; pass a JSON document or @file") from error
    except RecursionError as error:
        raise EventError(f"{source}: nested too deeply to be read ({len(text)} characters)") from error


def _content(uri: str, spark: SparkSession | None) -> bytes | str:
    path = uri[len(FILE_SCHEME) :] if uri.startswith(FILE_SCHEME) else uri
    if "://" not in path:
        return Path(path).read_bytes()
    if spark is None:
        raise EventError(f"{uri} is not on this machine: pass the session to read it, job.figures(spark)")
    from sparklet.job.session import stored_text

    return stored_text(spark, uri)


def _event_inputs(event: Mapping[str, Any]) -> tuple[str, ...]:
    inputs = event.get("inputs")
    if inputs is None:
        path = _text(event, "input_path")
        return (path,) if path else ()
    if not isinstance(inputs, list) or not all(isinstance(uri, str) and uri for uri in inputs):
        raise EventError(f"the event's inputs are {_quoted(inputs)}; they must be a list of uris")
    return tuple(inputs)


def _one_source(name: str, event_value: Any, argument: Any) -> Any:
    """Return the event's value, or else the argument. EventError if they differ.

    For example, one ``--output`` for all shards differs from the folder that each shard has in its event.
    """
    if event_value and argument and event_value != argument:
        raise EventError(
            f"the event's {name} is {_quoted(event_value)} and --{name} is {_quoted(argument)}; "
            f"leave out --{name}, or change the event"
        )
    return event_value or argument


def _text(event: Mapping[str, Any], key: str) -> str | None:
    value = event.get(key)
    if value is not None and not isinstance(value, str):
        raise EventError(f"the event's {key} is {_quoted(value)}; it must be a text")
    return value


def _object(event: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = event.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise EventError(f"the event's {key} is {_quoted(value)}; it must be an object")
    return value


def _shard_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that name its shard, from the event's ``sparklet``; {} outside a run."""
    if fields.keys() <= {"script", "args", "task", "committed"}:  # a direct event, a task request, a batch's part
        return {}
    run_id, shard, generation = fields.get("run"), fields.get("shard"), fields.get("generation")
    # ``type`` is compared, since to ``isinstance`` JSON's true is an int.
    if not (isinstance(run_id, str) and run_id) or type(shard) is not int or type(generation) not in (int, type(None)):
        raise EventError(f"the event's sparklet is {_quoted(fields)}; it must hold run, shard, attempt and generation")
    attempt = None if fields.get("attempt") is None else str(fields["attempt"])
    return {"run_id": run_id, "shard": shard, "attempt": attempt, "generation": generation}


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
