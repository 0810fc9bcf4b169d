"""What became of the children of a Distributed Map, as Step Functions wrote it down or answered it.

A map with a ResultWriter answers where ``manifest.json`` lies; that names ``SUCCEEDED_n.json``, ``FAILED_n.json`` and
``PENDING_n.json``, each a JSON array of ``{"ExecutionArn", "Input", "InputDetails", "Name", "Output", "OutputDetails",
"RedriveCount", "StartDate", "StateMachineArn", "Status", "StopDate"}``, with ``Error`` and ``Cause`` instead of an
output where a child failed; input and output are JSON in a text. See
https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html. A map without one, and the
stand-in's, answers the array of its children's outputs. The files may be gigabytes: they are read piece by piece.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any

from sparklet.errors import BatchNotDoneError, EventError, PlanError
from sparklet.model import BATCH, BatchRef
from sparklet.ports import ObjectStore
from sparklet.s3_uri import SCHEME

CHUNK_BYTES = 4 * 1024 * 1024
SPACE = " \t\r\n"
UNKNOWN = "States.Unknown"
_DECODER = json.JSONDecoder()


class Fate(StrEnum):
    """What became of a batch: the name of the file that it is in."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    PENDING = "PENDING"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one batch."""

    fate: Fate
    items: int  # as the map counts them
    told: Mapping[str, Any] = field(default_factory=dict)  # the worker's answer, of one that succeeded
    error: str = ""
    cause: str = ""
    undone: tuple[Any, ...] = ()  # the items, of one that did not succeed


def results_of_map(output: Any, store: ObjectStore) -> Iterator[BatchResult]:
    """The results of a map from its output.

    Raises
    ------
    PlanError
        If the files are not what the result writer writes.
    """
    if isinstance(output, list):
        for element in output:
            yield _result(element)
        return
    place = output.get("ResultWriterDetails") if isinstance(output, Mapping) else None
    if not isinstance(place, Mapping) or not {"Bucket", "Key"} <= place.keys():
        raise EventError("the map's result is neither a list nor says where its result writer wrote")
    yield from results_of_manifest(f"{SCHEME}{place['Bucket']}/{place['Key']}", store)


def results_of_manifest(uri: str, store: ObjectStore) -> Iterator[BatchResult]:
    """The results that a result writer's manifest names."""
    try:
        manifest = json.loads(store.get(uri))
        bucket, files = manifest["DestinationBucket"], manifest["ResultFiles"]
        named = [(fate, f"{SCHEME}{bucket}/{file['Key']}") for fate in Fate for file in files.get(fate, [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{uri} is no manifest of a result writer ({type(error).__name__}: {error})") from error
    for fate, file_uri in named:
        try:
            for element in array_elements(_chunks(store, file_uri)):
                yield _result(element, fate)
        except (ValueError, TypeError, AttributeError) as error:
            raise PlanError(f"{file_uri} is no file of a result writer ({type(error).__name__}: {error})") from error


def _chunks(store: ObjectStore, uri: str) -> Iterator[bytes]:
    info = store.head(uri)
    for start in range(0, info.size_bytes, CHUNK_BYTES):
        yield store.get(uri, start, min(CHUNK_BYTES, info.size_bytes - start), info.etag)


def array_elements(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The elements of a JSON array in UTF-8, one by one; ValueError if it is none. Holds a chunk and an element."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    text, at, wanted = "", 0, "["
    for chunk in chain(chunks, (None,)):
        text, at = text[at:] + decode(chunk or b"", chunk is None), 0
        while wanted and (step := _step(text, at, wanted)):
            at, wanted, elements = step
            yield from elements
    if wanted or text[at:].strip(SPACE):
        raise ValueError(f"the JSON array does not go on as it should: {text[at : at + 20]!r}")


def _step(text: str, at: int, wanted: str) -> tuple[int, str, tuple[Any, ...]] | None:
    """One element, bracket or comma further, and what is wanted there; None: not without more text."""
    at = _after_space(text, at)
    if at == len(text):
        return None
    if wanted == "element" and text[at] != "]":
        try:
            element, end = _DECODER.raw_decode(text, at)
        except ValueError:
            return None  # it may go on in the next chunk
        end = _after_space(text, end)
        return (end, ",", (element,)) if text[end : end + 1] in (",", "]") else None  # a number may go on as well
    if wanted != "[" and text[at] == "]":
        return at + 1, "", ()
    return (at + 1, "element", ()) if text[at] == wanted else None


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _result(element: Any, fate: Fate | None = None) -> BatchResult:
    """A record of the result writer, or an output that the map answered itself (None: its child failed)."""
    if element is None:
        return BatchResult(Fate.FAILED, 1, error=UNKNOWN, cause="the map does not say why")
    if not isinstance(element, Mapping):
        raise TypeError(f"a result is a {type(element).__name__}, not an object")
    if "Status" not in element:
        return BatchResult(Fate.SUCCEEDED, int(element.get("items", 1)), element)
    fate = fate or (Fate.SUCCEEDED if element["Status"] == Fate.SUCCEEDED else Fate.FAILED)
    if fate is Fate.SUCCEEDED:
        told = _document(element.get("Output")) or {}
        return BatchResult(fate, int(told.get("items", 1)), told)
    ref = _batch(_document(element.get("Input")))
    error, cause = _told(str(element.get("Error") or element["Status"]), _said(element.get("Cause")))
    return BatchResult(fate, ref.counted if ref else 1, {}, error, cause, ref.items if ref else ())


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _batch(document: Any) -> BatchRef | None:
    try:
        return BatchRef.from_document({"sparklet": {BATCH: document}})
    except EventError:
        return None


def _told(error: str, cause: str) -> tuple[str, str]:
    """Class and message of what the worker gave up with, which wraps them, see ``BatchNotDoneError``."""
    name, colon, message = cause.partition(": ")
    return (name, message) if error == BatchNotDoneError.__name__ and colon else (error, cause)


def _said(cause: Any) -> str:
    """A function's own message: Lambda wraps it in ``{"errorMessage", "errorType", "stackTrace"}``."""
    text = cause if isinstance(cause, str) else ""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    message = document.get("errorMessage") if isinstance(document, dict) else None
    return message if isinstance(message, str) else text
