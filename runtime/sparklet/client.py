"""Start runs and scripts from Python programs: notebooks, Airflow, Dagster, Prefect.

This module does what the command line does, on the same stacks: the local stack, or a deployed one.
"""

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

from sparklet import model
from sparklet.app.costs import load_prices
from sparklet.app.documents import group_document, result_document
from sparklet.app.input_pages import input_pages
from sparklet.app.redrive import Selection, redrive_run, selected_shards
from sparklet.app.stack import StackSelection, open_stack
from sparklet.app.start import begin, invoke_script, run_request
from sparklet.app.state_machines import DispatchMode, stop_execution
from sparklet.app.status import explain_run, view_run
from sparklet.app.watch import Lines, watch
from sparklet.errors import RunFailedError
from sparklet.model import RunState
from sparklet.model.redaction import printable
from sparklet.planning.inputs.list_requests import read_items
from sparklet.runs.cancel import cancel
from sparklet.runs.redrive import Again

StrPath = str | PathLike[str]
# Names of the options for a stack → names of the parameters of ``Stack``
OF_STACK = {name: name for name in ("state_dir", "quiet", "workers", "timeout_s", "memory_mb", "runner", "keep")}
OF_STACK |= {"timeout": "timeout_s", "memory": "memory_mb"}  # the names of the command line's options


@dataclass(frozen=True)
class _Reporter:
    """Prints progress and warnings on standard error, unless ``quiet`` is set."""

    quiet: bool

    def say(self, text: str) -> None:
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")


class Stack(AbstractContextManager["Stack"]):
    """A stack that is held until ``close``, or the end of the ``with`` block.

    The local stack is started if it does not run, and stops after its last user. While it is held, this process' AWS
    settings are those of the stack, so that other AWS clients in this process also use it.

    Parameters
    ----------
    name
        The name of a deployed stack; "" for the local stack.
    quiet
        Print no progress on standard error.
    of_local
        For the local stack: ``workers``, ``timeout_s``, ``memory_mb``, ``runner`` and ``keep``, as on the command line.
    """

    def __init__(
        self, name: str = "", *, state_dir: StrPath | None = None, quiet: bool = False, **of_local: Any
    ) -> None:
        self._selection = StackSelection(name, Path(state_dir) if state_dir else None, **of_local)
        self.reporter = _Reporter(quiet)
        self._exit_stack = ExitStack()
        self.opened = self._exit_stack.enter_context(open_stack(self._selection, self.reporter))
        self._slots = threading.BoundedSemaphore(self.opened.size.concurrency)

    def run(
        self,
        script: StrPath,
        input: StrPath | Sequence[StrPath] = (),  # noqa: A002 - the command line's word
        output: StrPath = "",
        *,
        dispatch_mode: DispatchMode = "queue",
        **options: Any,
    ) -> "Run":
        """Plan and dispatch a run.

        Parameters
        ----------
        options
            The options of ``sparklet run``, with underscores: ``max_objects=5``, ``tolerate="2%"``, ``run_id=…``.
            ``params``, ``env`` and ``files`` are mappings; ``items`` is the list of items itself. A repeated request
            with the same ``run_id`` or ``idempotency_key`` returns the same run.

        Raises
        ------
        SettingsError, EventError, PlanError
            If the request is wrong; NothingNewError if there is nothing to do.
        """
        inputs = [input] if isinstance(input, str | PathLike) else input
        lists = [*options.pop("lists", ()), *read_items(options.pop("items", ()))]
        request_options = {"script": script, "inputs": inputs, "output": output, "lists": lists, **options}
        request_options = {
            name: _plain(value) for name, value in request_options.items() if value not in (None, "", [], ())
        }
        request = run_request(request_options, self._selection)
        return self.find(begin(self.opened, request, dispatch_mode, self.reporter).run_id)

    def find(self, run_id: str) -> "Run":
        """Return a run that was started before.

        Raises
        ------
        RunNotFoundError
            If there is no run of that id.
        """
        return Run(self, self.opened.deployment.ledger.runs.get(run_id).run_id)

    def submit_script(
        self, script: StrPath, event: Any, args: Iterable[str] = (), env: Mapping[str, str] | None = None
    ) -> "Future[Mapping[str, Any]]":
        """Run a script on one event, in a Spark worker. At most as many scripts run at a time as the stack has workers.

        Returns
        -------
        concurrent.futures.Future
            Its result is the worker's answer; its exception a RemoteFailureError if the script failed.
        """
        future: Future[Mapping[str, Any]] = Future()

        def invoke() -> None:
            with self._slots:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(invoke_script(self.opened, str(script), event, tuple(args), env or {}))
                    except BaseException as error:  # noqa: BLE001 - the future passes it on
                        future.set_exception(error)

        threading.Thread(target=invoke, name="sparklet-script", daemon=True).start()
        return future

    def close(self) -> None:
        """Release the stack; the local stack stops after its last user."""
        self._exit_stack.close()

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Run:
    """A run. Its methods return the same documents as the command line with ``--json``."""

    stack: Stack
    run_id: str

    def status(self) -> dict[str, Any]:
        """Return the run's status, as ``sparklet status RUN`` shows it."""
        return view_run(self.stack.opened, self._ledger_run(), load_prices()).document(self.stack.opened)

    def result(self) -> dict[str, Any]:
        """Wait until the run has ended, and a local output folder is filled; return the run's figures.

        Raises
        ------
        RunFailedError
            If the run has failed or was cancelled.
        """
        opened, reporter = self.stack.opened, self.stack.reporter
        lines = nullcontext(Lines(reporter, self.run_id, opened.deployment.clock))
        summary = watch(opened, self.run_id, lines, reporter)
        document = result_document(opened, self._ledger_run(), summary)
        if summary.state in (RunState.FAILED, RunState.CANCELLED):
            raise RunFailedError(document)
        return document

    def failures(self) -> list[dict[str, Any]]:
        """Return the failed shards grouped by cause, with reason and remedy, as ``sparklet explain RUN`` shows them."""
        groups, _ = explain_run(self.stack.opened, self._ledger_run())
        return [group_document(self.stack.opened, group) for group in groups]

    def inputs(self, page_size: int = 1000) -> Iterator[list[dict[str, Any]]]:
        """Yield the state of each input, in pages, in the order of the shards. States are final once the run has ended.

        Parameters
        ----------
        page_size
            The most inputs that a page has.

        Yields
        ------
        list of dict
            Each dict has ``input`` (an address, local file or item), ``shard``, ``state``, ``rows`` and ``outputs``; a
            FAILED input also ``error_class`` and ``error_message``. With ``output_per="input"`` rows and outputs are
            those of the input. Otherwise the outputs are those of its shard, and ``rows`` is None unless the shard has
            no other input. An input that was cut comes once for each ``slice``, which has kind, start and end.
        """
        # A generator, so that it keeps this object, and with it the stack, while pages are read.
        yield from input_pages(self.stack.opened, self._ledger_run(), page_size)

    def redrive(
        self,
        shards: Iterable[int] = (),
        cause: str = "",
        script: StrPath = "",
        *,
        isolate: bool = False,
        objects: Iterable[str] = (),
        first: str = "",
        last: str = "",
        everything: bool = False,
    ) -> Self:
        """Send failed shards again, all or selected ones, with ``script`` in place of the run's; return this run.

        Shards that are selected by number, by their inputs' ``objects``, by a range of partitions or times from
        ``first`` to ``last``, or by ``everything``, are done again even if they have succeeded: their output is
        replaced.
        """
        selection = Selection(tuple(shards), cause, tuple(objects), first, last, everything)
        numbers = selected_shards(self.stack.opened, self.run_id, selection)
        redrive_run(self.stack.opened, self.run_id, numbers, str(script), self.stack.reporter, Again(isolate=isolate))
        return self

    def cancel(self) -> None:
        """Cancel the run: shards that have not begun are given up, running shards are allowed to end.

        If a state machine's execution drives the run, it is stopped.
        """
        stop_execution(self.stack.opened, cancel(self.stack.opened.deployment, self.run_id).run, self.stack.reporter)

    def _ledger_run(self) -> model.Run:
        """The run as the ledger has it now."""
        return self.stack.opened.deployment.ledger.runs.get(self.run_id)


def run(
    script: StrPath,
    input: StrPath | Sequence[StrPath] = (),  # noqa: A002 - the command line's word
    output: StrPath = "",
    *,
    stack: str = "",
    **options: Any,
) -> Run:
    """Plan and dispatch a run, and return it; ``options`` are those of ``Stack`` and of ``Stack.run``.

    The stack is held as long as the returned object exists.
    """
    stack_options = {OF_STACK[name]: options.pop(name) for name in OF_STACK.keys() & options.keys()}
    held_stack = Stack(stack, **stack_options)
    try:
        return held_stack.run(script, input, output, **options)
    except BaseException:
        held_stack.close()
        raise


def _plain(value: Any) -> Any:
    """A value as a request has it: paths become strings, and tuples become lists."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, PathLike) else value
