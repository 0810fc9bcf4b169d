"""The exception that everything began with, read from what a script wrote to standard error.

Python tells it last, Java inside (``Caused by``), and PySpark puts either into the other.
"""

import re
from pathlib import PurePath

LONGEST_MESSAGE = 1000

_NAME = r"(?P<name>(?:(?:[A-Za-z_$][\w$]*|<locals>)\.)*[A-Za-z_$][\w$]*)(?:: ?(?P<message>.*))?$"
_HEADER = re.compile(r"^Traceback \(most recent call last\):$", re.MULTILINE)
_ERROR = re.compile(f"^{_NAME}", re.MULTILINE)  # frames are indented, the error is not
_SYNTAX_ERROR = re.compile(r"^(?:SyntaxError|IndentationError|TabError): ", re.MULTILINE)
_SYNTAX_PLACE = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+)$", re.MULTILINE)
_GROUP_EDGE = re.compile(r"^  (?:\| |\+ Exception Group (?=Traceback))", re.MULTILINE)
_CAUSED_BY = re.compile(f"^Caused by: {_NAME}", re.MULTILINE)
_JAVA_TOP = re.compile(rf"^(?:: |Exception in thread \"[^\"]*\" ){_NAME}", re.MULTILINE)
_LOST_TASK = re.compile(rf"executor [^ )]+\): {_NAME}", re.MULTILINE)
_AFTERMATH = re.compile(r"^(?:Error in atexit\._run_exitfuncs|Exception ignored in)", re.MULTILINE)
_FROM = "The above exception was the direct cause of the following exception:"
_MEANWHILE = "During handling of the above exception, another exception occurred:"

_DUMP = re.compile(r"^Current thread .*\n(?P<frames>(?:  File .*\n)+)", re.MULTILINE)
_DUMP_FRAME = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+) in ", re.MULTILINE)

Cause = tuple[str, str]


def root_cause(stderr: str) -> Cause:
    """Class (without its package) and message of the innermost exception.

    Where no exception is told of, the class is empty and the message the last line.
    """
    found = _aftermath_cut(_GROUP_EDGE.sub("", stderr.replace("\r\n", "\n")))
    name, message = _python_cause(found) or _java_cause(found) or ("", _last_line(found))
    return name.rpartition(".")[2], message.strip().rstrip(";")[:LONGEST_MESSAGE]


def where_it_was(stderr: str, script: str) -> str:
    """The line of the script that the last stack dump shows, as ``line 7 of job.py``; "" if it shows none."""
    dumps = list(_DUMP.finditer(stderr))
    frames = _DUMP_FRAME.finditer(dumps[-1]["frames"]) if dumps else ()
    line = next((frame["line"] for frame in frames if frame["file"] == script), "")
    return f"line {line} of {PurePath(script).name}" if line else ""


def _python_cause(text: str) -> Cause | None:
    """The error of the last traceback, or of the one it was raised ``from``."""
    headers = [match.end() for match in _HEADER.finditer(text)]
    if not headers:
        match = _SYNTAX_ERROR.search(text)  # a script that does not compile has no traceback
        return _error_in(text) if match else None
    last = len(headers) - 1
    while last > 0 and _FROM in text[headers[last - 1] : headers[last]]:
        last -= 1
    report = text[headers[last] :]
    for link in (_FROM, _MEANWHILE):
        report = report.partition(link)[0]
    return _error_in(report)


def _error_in(report: str) -> Cause | None:
    error = _ERROR.search(report)
    if error is None:
        return None
    name, message = error["name"], error["message"] or ""
    rest = report[error.end() :]
    if name.endswith("Py4JJavaError"):
        return _java_cause(rest) or (name, message)
    if _SYNTAX_ERROR.match(error[0]) and (places := list(_SYNTAX_PLACE.finditer(report))):
        return name, f"{message} ({PurePath(places[-1]['file']).name}, line {places[-1]['line']})"
    return name, message if message.strip() or ":" not in error[0] else _first_line(rest)


def _java_cause(text: str) -> Cause | None:
    """The last ``Caused by``; without one, what the lost task or the exception itself says."""
    inner = list(_CAUSED_BY.finditer(text))
    match = inner[-1] if inner else _LOST_TASK.search(text) or _JAVA_TOP.search(text)
    if match is None:
        return None
    name, message = match["name"], match["message"] or ""
    if message.startswith("Traceback "):  # a Python exception that passed through the JVM
        return _error_in(text[match.end() :]) or (name, message)
    return name, message


def _aftermath_cut(text: str) -> str:
    """Without what failed only because of the failure, on the way out."""
    aftermath = _AFTERMATH.search(text)
    return text[: aftermath.start()] if aftermath and _HEADER.search(text, 0, aftermath.start()) else text


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))
