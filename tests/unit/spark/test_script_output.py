import random
import re
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from sparklet.errors import GatewayLostError, OutOfMemoryError, ScratchFullError
from sparklet.spark.runner import Deadline, ScriptCall, Stream
from sparklet.spark.script import Script
from sparklet.spark.script_output import MAX_PIECE_BYTES, TAIL_BYTES, LineFeed, ScriptOutput, Tail, signal_name
from tests.unit.spark.test_root_cause import JAVAS, LOST, READER, TRACE

TASK = Path("/task")
CALL = ScriptCall(TASK / "job.py", Script(b""), (), TASK, Deadline(0, 0), py_files=(TASK / "deps.zip",))


class Lines(list[tuple[Stream, bytes]]):
    def __call__(self, stream: Stream, line: bytes) -> None:
        self.append((stream, line))


def task_output() -> ScriptOutput:
    return ScriptOutput(Lines(), CALL)


def lines_of(*chunks: bytes) -> list[bytes]:
    """The lines that LineFeed makes of these chunks and the end of the pipe."""
    lines: list[bytes] = []
    feed = LineFeed(lines.append)
    for chunk in (*chunks, b""):
        feed.feed(chunk)
    return lines


def test_lines_keep_their_newline_however_they_were_cut() -> None:
    text = b"one\ntwo\n\nthree \xff\x00\r\nfour"
    for seed in range(20):
        cuts = sorted(random.Random(seed).choices(range(len(text)), k=4))
        chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < end]

        assert lines_of(*chunks) == [b"one\n", b"two\n", b"\n", b"three \xff\x00\r\n", b"four"]
    assert lines_of(b"one\n") == [b"one\n"]  # the end of the pipe adds no line


@pytest.mark.parametrize("chunks", [[b"x" * 65536] * 80 + [b"y\n"], [b"x" * 200_000 + b"\n"]], ids=["endless", "one"])
def test_a_very_long_line_is_cut_into_pieces(chunks: list[bytes]) -> None:
    pieces: list[bytes] = []
    feed = LineFeed(pieces.append)
    for number, chunk in enumerate(chunks, 1):
        feed.feed(chunk)
        assert sum(map(len, pieces)) == sum(map(len, chunks[:number]))  # nothing is kept back

    assert b"".join(pieces) == b"".join(chunks)
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES


def test_memory_stays_bounded_for_any_amount_of_output() -> None:
    seen = 0

    def count(stream: Stream, line: bytes) -> None:
        nonlocal seen
        seen += len(line)

    task = ScriptOutput(count, CALL)
    feed = LineFeed(partial(task.add, "script", "stderr"))
    tracemalloc.start()
    try:
        for chunk in (b"line\n".rjust(1024) * 64, b"x" * 65536):
            for _ in range(800):
                feed.feed(chunk)
        feed.feed(b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert seen == 2 * 800 * 65536  # 100 MiB
    assert peak < 4 * 1024 * 1024


def test_the_tail_holds_whole_lines_and_at_most_its_size() -> None:
    tail = Tail(100)
    for number in range(1000):
        tail.add(b"line %d\n" % number)

    kept = tail.text()
    assert len(kept) <= 100
    assert kept.startswith("line 98")
    assert kept.endswith("line 999\n")


@pytest.mark.parametrize(("line", "kept"), [(b"0123456789abcdef", "6789abcdef"), (b"\xff\xfe\n", "\ufffd\ufffd\n")])
def test_the_tail_survives_endless_lines_and_bytes(line: bytes, kept: str) -> None:
    tail = Tail(10)
    tail.add(line)

    assert tail.text() == kept


def test_output_is_passed_on_and_stderrs_tail_is_kept() -> None:
    lines = Lines()
    task = ScriptOutput(lines, CALL)
    task.add("script", "stdout", b"out\n")
    task.add("jvm", "stderr", b"WARN something\n")
    task.add("script", "stderr", b"x" * TAIL_BYTES + b"\nlast\n")

    assert [stream for stream, _ in lines] == ["stdout", "stderr", "stderr"]
    assert task.result(0).stderr_tail == "last\n"
    assert (task.result(0).cause_class, task.result(0).cause) == ("", "")


def cause_of(code: int, *output: tuple[Literal["script", "jvm"], str], started: bool = True) -> tuple[str, str]:
    """The cause that is read for a script with this exit code after these lines on standard error."""
    task = task_output()
    for source, text in output:
        task.add(source, "stderr", text.encode())
    result = task.result(code, started=started)
    assert result.exit_code == code
    return result.cause_class, result.cause


KILLED = "ended by SIGKILL: killed from outside, as the kernel does when memory is used up"
RAISED = f"{TRACE}  File ...\nValueError: mine\n"
UNRESOLVED = 'Exception in thread "main" java.lang.RuntimeException: unresolved dependency\n\tat x\n'
LOGGED = "26/11/20 11:38:58 WARN NativeCodeLoader: Unable to load native-hadoop library\n"


def test_the_cause_is_the_most_specific_error_in_the_output() -> None:
    assert cause_of(1, ("script", RAISED), ("jvm", "Caused by: java.io.IOException: x\n")) == ("ValueError", "mine")
    # The script itself wrote nothing.
    assert cause_of(1, ("jvm", UNRESOLVED)) == ("RuntimeException", "unresolved dependency")
    assert cause_of(1, ("script", "no input today\n")) == ("", "no input today")
    assert cause_of(3, ("jvm", LOGGED)) == ("", "")  # the log of a JVM is not the cause if a script only exits
    assert cause_of(1, ("jvm", LOGGED), started=False)[1].endswith("Unable to load native-hadoop library")


def test_a_signal_is_the_cause_if_no_other_is_known() -> None:
    assert cause_of(-9) == ("", KILLED)
    assert cause_of(-15) == ("", "ended by SIGTERM")
    assert signal_name(42) == "signal 42"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (JAVAS + "java.lang.OutOfMemoryError: Cannot reserve 100 bytes\n", "Cannot reserve 100 bytes"),
        (
            JAVAS + "org.apache.spark.SparkException: Job aborted due to stage failure\nCaused by: "
            "org.apache.spark.memory.SparkOutOfMemoryError: [UNABLE_TO_ACQUIRE_MEMORY] got 0.\n",
            r"got 0\.",
        ),
        (
            '  File "/task/job.py", line 7, in <module>\nnumpy.core._ArrayMemoryError: Unable to allocate\n',
            r"Python ran out of memory at line 7 of job\.py: Unable to allocate",
        ),
    ],
)
def test_lack_of_memory_raises_one_error_whatever_reports_it(output: str, told: str) -> None:
    """This is so even if the JVM lives on."""
    with pytest.raises(OutOfMemoryError, match=f"{told}; give the function more memory"):
        cause_of(1, ("script", f"{TRACE}{output}"))


@pytest.mark.parametrize(
    "output",
    [
        "OSError: [Errno 28] No space left on device: '/scratch/x'\n",
        "OSError: [Errno 122] Disk quota exceeded\n",
        JAVAS + "java.io.IOException: No space left on device\n",
    ],
)
def test_a_full_disk_raises_one_error_whatever_reports_it(output: str) -> None:
    with pytest.raises(ScratchFullError, match=r"there was no space left: .*; give the function more eph"):
        cause_of(1, ("script", f"{TRACE}{output}"))


def test_the_reported_line_is_in_the_script_not_in_a_library() -> None:
    task = task_output()
    frames = b'  File "/task/job.py", line 7, in <module>\n  File "/task/deps.zip/mine.py", line 3, in f\n'
    library = b'  File "/venv/pandas/core.py", line 900, in g\n'
    task.add("script", "stderr", b"Traceback (most recent call last):\n" + frames + library + b"ValueError: no\n")

    assert task.result(1).place == "line 3 of mine.py"


def test_a_jvm_that_ends_is_reported_with_its_reason() -> None:
    killed = task_output().jvm_failure(-9)
    assert isinstance(killed, GatewayLostError)
    assert "ended by SIGKILL under the script; is the function's memory too small?" in str(killed)

    task = task_output()
    task.add("jvm", "stdout", b"Terminating due to java.lang.OutOfMemoryError: Java heap space\n")
    assert isinstance(task.jvm_failure(3), OutOfMemoryError)
    assert "Java heap space" in str(task.jvm_failure(3))

    task = task_output()
    task.add("jvm", "stderr", b"Error: Could not find or load main class X\n")
    assert str(task.jvm_failure(1)).endswith(
        "ended with 1 under the script; its output: Error: Could not find or load main class X"
    )


def reads(task: int, file: str) -> bytes:
    thread = f"Executor task launch worker for task {task}.0 in stage 0.0 (TID {task})"
    return f"sparklet.reads {thread} Reading File path: {file}, range: 0-9, partition values: [empty row]\n".encode()


@pytest.mark.parametrize("source", ["script", "jvm"])
def test_lines_about_read_files_serve_the_cause_but_are_hidden(source: Literal["script", "jvm"]) -> None:
    lines = Lines()
    task = ScriptOutput(lines, CALL)
    for number in range(5000):
        task.add(source, "stderr", reads(number, f"s3://b/{number}.csv"))
    task.add(source, "stderr", b"[Stage 0:>   (0 + 1) / 1]" + reads(7, "s3://b/bad.csv"))
    task.add(source, "stderr", reads(4999, "s3://b/other.csv"))
    feeds_python = b"stdout writer for python3"
    task.add(source, "stderr", re.sub(rb"Executor.*?\)", feeds_python, reads(7, "s3://b/other.csv")))
    for line in LOST.format(frames=READER, driver="").splitlines(keepends=True):
        task.add("script", "stderr", line.encode())

    assert task.result(1).files == ("s3://b/bad.csv",)
    assert b"sparklet.reads" not in b"".join(line for _, line in lines)
    assert (b"[Stage 0:>   (0 + 1) / 1]" in lines[0][1]) and b"" not in {line for _, line in lines}
