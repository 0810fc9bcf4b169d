"""Patches of ministack 1.5.33, listed by the functions here or by ministack's internal names, with their reasons.

A newer ministack may not need a patch. To find out, remove the patch and run the test in parentheses, which fails while
the patch is needed.

``_hold_until_started`` (test_stack_life)
    ministack starts event source mappings and schedules as soon as its state is loaded. They must wait for a client.
``_hold_calls`` (test_restarts, which sometimes passes without the patch)
    While ministack ends, executions of state machines go on, and call functions that cannot run any more.
``_name_errors`` (test_machines)
    On AWS ``Retry`` and ``Catch`` match the class of a function's exception; ministack has one name for all errors.
``_read_map_limits`` (test_machines)
    A Map's limits can be paths into its input; ministack reads numbers only.
``_emit_lambda_logs`` (test_ministack_patches)
    ministack keeps the log lines of every invocation in memory forever; workers write files.
``_drain_stderr_bounded``, ``_ESM_IDLE_WAKE_GAP_SECONDS`` (``gap`` of ``benchmarks.fan_out``)
    After each call ministack waits 50 ms for a first log line, and again 50 ms if there was none.
``choose_partitions`` (test_catalog_tables)
    Glue filters partitions by a condition, and answers in pages; ministack does neither.
``condition_copies`` (test_object_store)
    S3 checks a request's condition before it copies; ministack checks only the conditions of other writes.
``refuse_writes`` (test_disk)
    ministack accepts an object that does not fit on the disk, and only logs that.
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
# The exception's line after a traceback, whose own lines are indented
_RAISED = re.compile(r"^(?:\w+\.)*(\w+)(?::|$)", re.MULTILINE)


class Processing:
    """Makes all patches; mappings and schedules wait for ``start``, and invoke nothing after ``stop``."""

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
        # Wake ministack's poller: after a poll that found nothing it sleeps up to five seconds.
        concurrency.esm_wake.set()

    def stop(self) -> None:
        """Stop invoking functions, and keep ministack from saving at its end: the emulator's ``Saver`` does that."""
        self._started.clear()
        self._stopped.set()
        ministack.PERSIST_STATE = False

    def _hold_until_started(self, module: Any, name: str) -> None:
        step = getattr(module, name)
        # After False, as after a poll without messages, ministack's poller sleeps.
        setattr(module, name, lambda: step() if self._started.is_set() else False)

    def _hold_calls(self) -> None:
        call = stepfunctions._call_lambda

        def call_unless_stopped(*arguments: Any) -> Any:
            if self._stopped.is_set():
                # Block forever: an error would make ministack save the execution as FAILED. While the call blocks, the
                # execution is saved as RUNNING, and ``deploy.restart_executions`` starts a new one at the next start.
                threading.Event().wait()
            return call(*arguments)

        stepfunctions._call_lambda = call_unless_stopped


def _do_not_await_logs() -> None:
    await_lines: Callable[..., str] = lambda_runtime.Worker._drain_stderr_bounded

    def drain(worker: Any, *arguments: Any, **keywords: Any) -> str:
        if worker._stderr_thread.is_alive():
            return await_lines(worker, *arguments, **keywords)
        # The thread has ended, since the worker has closed its standard error: it logs to a file.
        return str(worker._drain_stderr())

    lambda_runtime.Worker._drain_stderr_bounded = drain


def _name_errors() -> None:
    execute = lambda_svc._execute_function

    def execute_and_name_error(*arguments: Any, **keywords: Any) -> Any:
        result = execute(*arguments, **keywords)
        body = result.get("body")
        # Other errors, such as a timeout, have AWS's name already.
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
            # Without a traceback the process ended by itself, which AWS calls Runtime.ExitError.
            body["errorType"] = error_class(str(result.get("log", ""))) or "Runtime.ExitError"
        return result

    lambda_svc._execute_function = execute_and_name_error


def error_class(log: str) -> str:
    """The class of the exception at the end of a log's last traceback; "" if there is none."""
    # The last traceback of a chain is that of the exception that the handler raised.
    _, heading, trace = log.rpartition("Traceback (most recent call last):")
    match = _RAISED.search(trace) if heading else None
    return match[1] if match else ""


def _read_map_limits() -> None:
    run = stepfunctions._run_map_items

    def run_with_numbers(state_def: Any, raw_input: Any, execution: Any, ctx: Any) -> Any:
        effective_input = stepfunctions._apply_input_path(state_def, raw_input, ctx)
        limits = {
            limit: stepfunctions._resolve_path_or_ctx(state_def[f"{limit}Path"], effective_input, ctx)
            for limit in MAP_LIMITS
            if f"{limit}Path" in state_def
        }
        return run({**state_def, **limits}, raw_input, execution, ctx)

    stepfunctions._run_map_items = run_with_numbers


def choose_partitions() -> None:
    """Have Glue filter partitions by the request's condition, and answer in pages."""

    def get_partitions(request: dict[str, Any]) -> Any:
        key = f"{request['DatabaseName']}/{request['TableName']}"
        partitions, columns = glue._partitions.get(key, []), glue._tables.get(key, {}).get("PartitionKeys", [])
        names = [(column["Name"], column["Type"]) for column in columns]
        numbers = matching(request.get("Expression", ""), names, [partition["Values"] for partition in partitions])
        start = int(request.get("NextToken") or 0)
        end = start + int(request.get("MaxResults") or len(numbers))
        next_token = {"NextToken": str(end)} if end < len(numbers) else {}
        return glue.json_response({"Partitions": [partitions[number] for number in numbers[start:end]], **next_token})

    glue._get_partitions = get_partitions


def condition_copies() -> None:
    """Have S3 copy an object only if the target meets the conditions of the request's headers (If-Match and others)."""
    copy_object = s3._copy_object

    def copy_on_condition(bucket: str, key: str, headers: Any) -> Any:
        existing_object = s3._buckets[bucket]["objects"].get(key) if bucket in s3._buckets else None
        return s3._check_put_preconditions(headers, existing_object) or copy_object(bucket, key, headers)

    s3._copy_object = copy_on_condition


def refuse_writes(refusal: Callable[[int], str]) -> None:
    """Have S3 refuse a write if ``refusal``, called with its number of bytes, returns an error other than ""."""
    handle = s3.handle_request

    async def refuse_or_handle(
        method: str, path: str, headers: Any, body: bytes, *arguments: Any, **keywords: Any
    ) -> Any:
        # A copy has no body, and needs as much room as its source.
        wanted_bytes = len(body) or _copied_bytes(headers.get("x-amz-copy-source", ""))
        if method in ("PUT", "POST") and (error := refusal(wanted_bytes)):
            # Status 400, since clients would repeat a request after a 5xx for minutes.
            return 400, {"Content-Type": "application/xml"}, error.encode()
        return await handle(method, path, headers, body, *arguments, **keywords)

    s3.handle_request = refuse_or_handle


def _copied_bytes(source: str) -> int:
    """The size of the object that a copy request names as its source; 0 if there is no such object."""
    bucket, _, key = unquote(source).partition("?")[0].strip("/").partition("/")
    stored_object = s3._buckets[bucket]["objects"].get(key) if bucket in s3._buckets else None
    return int(stored_object["size"]) if stored_object else 0


def uploaded_bytes() -> int:
    """The bytes of incomplete uploads, which ministack keeps in memory."""
    return sum(part["size"] for upload in s3._multipart_uploads.values() for part in upload["parts"].values())


def write_state(services: Collection[str]) -> None:
    """Write the state of these services, or of all if none are named. To be called in a forked child only.

    Unlike ministack's ``save_state``, this encodes a document in one step, in C, and raises failures.
    """
    # Ministack copies everything that it saves. The child's memory is a copy already, so that would only cost time.
    copy.deepcopy = lambda value, memo=None, nil=None: value  # type: ignore[assignment]
    states = ministack._build_persistence_save_dict()
    for name in services or states:
        # None if the service has nothing new to save: then its earlier file stays.
        if (state := states[name]()) is not None:
            document = {"__ministack_format__": persistence._state_format_version(name), "payload": state}
            path = Path(persistence.STATE_DIR) / f"{name}.json"
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(document, default=persistence._json_default))
            # Until this line, a child that is killed leaves the earlier file as it was.
            draft.replace(path)
