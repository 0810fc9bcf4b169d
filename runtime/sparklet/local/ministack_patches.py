"""Patches of ministack 1.5.33, by its internal names, and why.

A newer ministack may not need a patch. Remove it and run the test named here: it fails while the patch is needed.

``_hold_until_started`` (test_stack_life)
    ministack starts event source mappings and schedules as soon as its state is loaded. They must wait for a client.
``_hold_calls`` (test_restarts, which may pass without it)
    While ministack ends, executions of state machines go on, and call functions that cannot run any more.
``_name_errors`` (test_machines)
    On AWS a failure has its exception's class as name, for ``Retry`` and ``Catch``; ministack has one name for all.
``_read_map_limits`` (test_machines)
    A Map's limits may be paths into its input; ministack reads numbers only.
``_emit_lambda_logs`` (test_ministack_patches)
    ministack keeps the log lines of every invocation in memory for ever; workers write files.
``_drain_stderr_bounded``, ``_ESM_IDLE_WAKE_GAP_SECONDS`` (``gap`` of ``benchmarks.fan_out``)
    After each call ministack waits 50 ms for a first line of log, and again 50 ms if there was none.
``choose_partitions`` (test_catalog_tables)
    Glue filters partitions by a condition, and answers in pages; ministack does neither.
``condition_copies`` (test_object_store)
    S3 copies onto a name only if the request's condition holds; ministack conditions other writes alone.
``refuse_writes`` (test_disk)
    ministack only logs that an object does not fit on the disk.
``write_state`` (test_stack_life)
    ministack writes its state only at an orderly end, and only logs a failure.
"""

import copy
import json
import re
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ministack import app as ministack
from ministack.core import concurrency, lambda_runtime, persistence
from ministack.services import eventbridge, glue, lambda_svc, s3, stepfunctions

from sparklet.connectors.data_catalog.conditions import matching

MAP_LIMITS = ("MaxConcurrency", "ToleratedFailureCount", "ToleratedFailurePercentage")
_RAISED = re.compile(r"^(?:\w+\.)*(\w+)(?::|$)", re.MULTILINE)  # the lines of a traceback are indented


class Processing:
    """Makes all patches; what ministack does by itself waits for ``start`` and ends with ``stop``."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._hold_until_started(lambda_svc, "_poll_sqs")
        self._hold_until_started(eventbridge, "_tick_scheduled_rules")
        self._hold_calls()
        _name_errors()
        _read_map_limits()
        choose_partitions()
        condition_copies()
        _do_not_await_logs()
        lambda_svc._ESM_IDLE_WAKE_GAP_SECONDS = 0.01
        lambda_svc._emit_lambda_logs = lambda *arguments, **keywords: None

    def start(self) -> None:
        """Let mappings and schedules invoke functions."""
        self._started.set()
        # After a look that found nothing ministack's poller sleeps, up to five seconds.
        concurrency.esm_wake.set()

    def stop(self) -> None:
        """Stop invoking functions; ministack does not save at its end, since the emulator's ``Saver`` does."""
        self._started.clear()
        self._stopped.set()
        ministack.PERSIST_STATE = False

    def _hold_until_started(self, module: Any, name: str) -> None:
        step = getattr(module, name)
        # False is a look that found no message: the poller sleeps.
        setattr(module, name, lambda: step() if self._started.is_set() else False)

    def _hold_calls(self) -> None:
        call = stepfunctions._call_lambda

        def called(*arguments: Any) -> Any:
            if self._stopped.is_set():
                # For ever: an error would be saved as the execution's end. As RUNNING it is cut off at the next start,
                # and ``deploy.restart_executions`` starts another for its run.
                threading.Event().wait()
            return call(*arguments)

        stepfunctions._call_lambda = called


def _do_not_await_logs() -> None:
    await_lines: Callable[..., str] = lambda_runtime.Worker._drain_stderr_bounded

    def drained(worker: Any, *arguments: Any, **keywords: Any) -> str:
        if worker._stderr_thread.is_alive():
            return await_lines(worker, *arguments, **keywords)
        return str(worker._drain_stderr())  # the worker has closed its end: it writes a file

    lambda_runtime.Worker._drain_stderr_bounded = drained


def _name_errors() -> None:
    execute = lambda_svc._execute_function

    def named(*arguments: Any, **keywords: Any) -> Any:
        result = execute(*arguments, **keywords)
        body = result.get("body")
        # A timeout has AWS's name already.
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
            # AWS calls it Runtime.ExitError if the process ended by itself, which leaves no traceback.
            body["errorType"] = error_class(str(result.get("log", ""))) or "Runtime.ExitError"
        return result

    lambda_svc._execute_function = named


def error_class(log: str) -> str:
    """The class of the exception at the end of a log's last traceback; "" if there is none."""
    # Of a chain of exceptions the last one is what the handler raised.
    _, heading, trace = log.rpartition("Traceback (most recent call last):")
    raised = _RAISED.search(trace) if heading else None
    return raised[1] if raised else ""


def _read_map_limits() -> None:
    run = stepfunctions._run_map_items

    def with_numbers(state_def: Any, raw_input: Any, execution: Any, ctx: Any) -> Any:
        effective = stepfunctions._apply_input_path(state_def, raw_input, ctx)
        limits = {
            limit: stepfunctions._resolve_path_or_ctx(state_def[f"{limit}Path"], effective, ctx)
            for limit in MAP_LIMITS
            if f"{limit}Path" in state_def
        }
        return run({**state_def, **limits}, raw_input, execution, ctx)

    stepfunctions._run_map_items = with_numbers


def choose_partitions() -> None:
    """Have Glue filter partitions by the request's condition, and answer in pages."""

    def chosen(request: dict[str, Any]) -> Any:
        key = f"{request['DatabaseName']}/{request['TableName']}"
        partitions, columns = glue._partitions.get(key, []), glue._tables.get(key, {}).get("PartitionKeys", [])
        names = [(column["Name"], column["Type"]) for column in columns]
        numbers = matching(request.get("Expression", ""), names, [partition["Values"] for partition in partitions])
        start = int(request.get("NextToken") or 0)
        end = start + int(request.get("MaxResults") or len(numbers))
        more = {"NextToken": str(end)} if end < len(numbers) else {}
        return glue.json_response({"Partitions": [partitions[number] for number in numbers[start:end]], **more})

    glue._get_partitions = chosen


def condition_copies() -> None:
    """Let S3 copy only if the target is, or is not, there, as the request's headers want."""
    copy_object = s3._copy_object

    def copied(bucket: str, key: str, headers: Any) -> Any:
        existing_object = s3._buckets[bucket]["objects"].get(key) if bucket in s3._buckets else None
        return s3._check_put_preconditions(headers, existing_object) or copy_object(bucket, key, headers)

    s3._copy_object = copied


def refuse_writes(refusal: Callable[[int], str]) -> None:
    """Have S3 refuse a write with what ``refusal`` gives for its bytes, unless that is ""."""
    handle = s3.handle_request

    async def guarded(method: str, path: str, headers: Any, body: bytes, *arguments: Any, **keywords: Any) -> Any:
        # A copy has no body, and needs as much room as its source.
        wanted_bytes = len(body) or _copied_bytes(headers.get("x-amz-copy-source", ""))
        if method in ("PUT", "POST") and (refused := refusal(wanted_bytes)):
            return 400, {"Content-Type": "application/xml"}, refused.encode()  # clients would repeat a 5xx for minutes
        return await handle(method, path, headers, body, *arguments, **keywords)

    s3.handle_request = guarded


def _copied_bytes(source: str) -> int:
    """The size of the object that a request copies; 0 if there is none."""
    bucket, _, key = unquote(source).partition("?")[0].strip("/").partition("/")
    stored_object = s3._buckets[bucket]["objects"].get(key) if bucket in s3._buckets else None
    return int(stored_object["size"]) if stored_object else 0


def uploaded_bytes() -> int:
    """The bytes of incomplete uploads, which ministack keeps in memory."""
    return sum(part["size"] for upload in s3._multipart_uploads.values() for part in upload["parts"].values())


def write_state(services: Collection[str]) -> None:
    """Write the state of these services (none: of all), in a forked child, whose state is a copy already.

    Unlike ministack's ``save_state``, it encodes at once, in C, and raises failures.
    """
    # Ministack copies all that it saves; in a process that is a copy, this takes time and memory for nothing.
    copy.deepcopy = lambda value, memo=None, nil=None: value  # type: ignore[assignment]
    states = ministack._build_persistence_save_dict()
    for name in services or states:
        if (state := states[name]()) is not None:  # None: it has nothing to save, what it saved earlier stands
            document = {"__ministack_format__": persistence._state_format_version(name), "payload": state}
            path = Path(persistence.STATE_DIR) / f"{name}.json"
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(document, default=persistence._json_default))
            # A child that is killed while it writes leaves the file of the save before.
            draft.replace(path)
