"""Calls and answers that are forged, changed or not allowed are refused and never unpickled."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions import calls
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import (
    Answer,
    Call,
    Codec,
    Content,
    Stored,
    decode,
    encode,
    encode_arguments,
    read,
    read_stored,
)
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.performer import Performer
from tests.stand_ins import called
from tests.stand_ins.function_backend import KEY, MemoryBackend, MemoryContents
from tests.stand_ins.memory_store import MemoryObjectStore

OTHER_KEY = b"somebody else's key"
NOW_S = 1000.0
BIG = "x" * 300_000
INLINE_BYTES = 2_000
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
picklable = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=200) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)
anything = json_values | st.binary() | st.dictionaries(st.sampled_from(["sparklet_call", "signature"]), json_values)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file that exists once something was unpickled or performed."""
    return tmp_path / "trace"


def performer(codec: Codec = "cloudpickle", contents: MemoryContents | None = None, **more: Any) -> Performer:
    return Performer(KEY, codec, contents or MemoryContents(), clock=lambda: NOW_S, **more)


def spying(trace: Path, contents: MemoryContents | None = None, codec: Codec = "pickle") -> Call:
    """A call that writes the trace file when it is unpickled, and when it is performed."""
    encoded = encode(codec, ((called.Spy(str(trace)),), {}))
    content = Content.of(codec, encoded, 0 if contents else INLINE_BYTES, contents or MemoryContents())
    return Call("task", "tests.stand_ins.called:keep", content, 10.0, NOW_S + 10, INLINE_BYTES)


def test_a_performed_call_leaves_its_trace(trace: Path) -> None:
    answer = Answer.opened(performer().perform(spying(trace).sealed(KEY)), KEY)

    assert trace.exists() and not answer.raised


@given(anything)
def test_a_document_that_is_not_an_envelope_is_refused(found: Any) -> None:
    for kind in (Call, Answer):
        with pytest.raises(PayloadError):
            kind.opened(found, KEY)


@SAME_FOLDER
@given(at=st.integers(0, 10_000), to=st.characters(), field=st.sampled_from(["sparklet_call", "signature"]))
def test_a_call_that_was_changed_is_not_performed(trace: Path, at: int, to: str, field: str) -> None:
    envelope = spying(trace).sealed(KEY)
    text = envelope[field]
    changed = text[: at % len(text)] + to + text[at % len(text) + 1 :]
    assume(changed != text)

    with pytest.raises(PayloadError):
        performer().perform({**envelope, field: changed})
    assert not trace.exists()


@SAME_FOLDER
@given(key=st.binary(), codec=st.sampled_from(["pickle", "cloudpickle"]))
def test_a_call_signed_with_another_key_is_not_performed(trace: Path, key: bytes, codec: Codec) -> None:
    assume(key != KEY)
    with pytest.raises(PayloadError):
        performer().perform(spying(trace, codec=codec).sealed(key))
    assert not trace.exists()


def test_an_answer_is_refused_as_a_call_and_a_call_as_an_answer(trace: Path) -> None:
    call = spying(trace)
    answer = Answer("task", call.content)
    for envelope in (
        {"sparklet_call": answer.sealed(KEY)["sparklet_answer"], "signature": answer.sealed(KEY)["signature"]},
        answer.sealed(KEY),
    ):
        with pytest.raises(PayloadError):
            performer().perform(envelope)
    with pytest.raises(PayloadError):
        Answer.opened(call.sealed(KEY), KEY)
    assert not trace.exists()


@SAME_FOLDER
@given(changes=st.dictionaries(st.sampled_from([each.name for each in fields(Call)]), json_values, min_size=1))
def test_a_signed_call_of_any_form_is_answered_or_refused(trace: Path, changes: dict[str, Any]) -> None:
    envelope = replace(spying(trace), **changes).sealed(KEY)  # a faulty caller that has the key
    try:
        answer = Answer.opened(performer("json").perform(envelope), KEY)
    except PayloadError:
        answer = None

    assert answer is None or answer.raised or answer.content is None
    assert not trace.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_s": NOW_S},
        {"expires_s": NOW_S - 1},
        {"content": Content("nothing", 1, "")},  # type: ignore[arg-type]
        {"content": None},
        {"content": Content("pickle", 10, "###")},
        {"function": "os:system"},
        {"function": "tests.stand_ins.called:os.system"},
        {"function": "tests.stand_ins.called:Path"},
        {"function": "tests.stand_ins.called:nothing"},
        {"function": "tests.stand_ins.called"},
        {"function": "nowhere:at_all"},
        {"function": ":"},
    ],
)
def test_expired_unknown_and_forbidden_calls_are_refused(trace: Path, changes: dict[str, Any]) -> None:
    call = replace(spying(trace), **changes)
    answer = Answer.opened(performer(modules=("tests.*", "nowhere")).perform(call.sealed(KEY)), KEY)

    assert not answer.raised and answer.content is None and answer.error
    if "function" not in changes:
        assert not trace.exists()


@pytest.mark.parametrize(("allowed", "sent"), [("json", "pickle"), ("json", "cloudpickle"), ("pickle", "cloudpickle")])
def test_a_worker_unpickles_only_the_codecs_that_it_allows(trace: Path, allowed: Codec, sent: Codec) -> None:
    answer = Answer.opened(performer(allowed).perform(spying(trace, codec=sent).sealed(KEY)), KEY)

    assert answer.content is None and not answer.raised
    assert not trace.exists()


def test_code_of_another_python_is_refused(trace: Path) -> None:
    call = replace(spying(trace, codec="cloudpickle"), python="3.99")
    answer = Answer.opened(performer().perform(call.sealed(KEY)), KEY)

    assert answer.content is None and "3.99" in answer.error
    assert not trace.exists()


def forge(contents: MemoryContents, trace: Path) -> None:
    """Replace every stored content, as somebody can who may write to the folder but has no key."""
    for name in contents.stored:
        contents.stored[name] = pickle.dumps(called.Spy(str(trace)))


def lose(contents: MemoryContents, trace: Path) -> None:
    contents.stored.clear()


@pytest.mark.parametrize("change", [forge, lose])
def test_contents_that_were_changed_are_not_unpickled(
    trace: Path, change: Callable[[MemoryContents, Path], None]
) -> None:
    contents = MemoryContents()
    stored = spying(trace, contents)
    shared = encode_arguments("pickle", None, ((b"x" * 100_000,), {}), contents)
    sharing = replace(stored, content=Content.of("pickle", shared, INLINE_BYTES, contents))
    change(contents, trace)
    for call in (stored, sharing):
        answer = Answer.opened(performer(contents=contents).perform(call.sealed(KEY)), KEY)
        assert answer.content is None and not answer.raised

        value, error = read(call, Answer("task", call.content), contents)
        assert value is None or isinstance(error, RemoteTaskError) or call is sharing
    assert not trace.exists()


@given(size_bytes=st.integers(0, 6_000), codec=st.sampled_from(["json", "pickle"]))
def test_a_large_value_is_stored(size_bytes: int, codec: Codec) -> None:
    encoded, contents = encode(codec, "x" * size_bytes), MemoryContents()
    content = Content.of(codec, encoded, INLINE_BYTES, contents)

    assert content.read(contents) == encoded
    assert bool(content.uri) == (not content.text) == bool(contents.stored) == (len(encoded) > INLINE_BYTES)


def test_a_value_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CONTENT_BYTES", 5_000)
    with pytest.raises(PayloadError, match="at most 5000"):
        Content.of("pickle", b"x" * 5_001, INLINE_BYTES, MemoryContents())
    assert Content.of("pickle", b"x" * 5_000, INLINE_BYTES, MemoryContents()).uri


def test_an_answer_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CONTENT_BYTES", 5_000)
    call = Call(
        "task",
        "tests.stand_ins.called:large",
        Content.of("pickle", encode("pickle", ((9_000,), {})), 500, MemoryContents()),
        1,
        NOW_S + 1,
        500,
    )
    answer = Answer.opened(performer().perform(call.sealed(KEY)), KEY)

    _, error = read(call, answer, MemoryContents())
    assert isinstance(error, PayloadError | RemoteTaskError)


@SAME_FOLDER
@given(task_id=st.text(), codec=st.sampled_from(["pickle", "cloudpickle"]))
def test_only_a_calls_own_answer_is_unpickled(trace: Path, task_id: str, codec: Codec) -> None:
    call = spying(trace, codec="pickle")
    assume((task_id, codec) != ("task", "pickle"))
    answer = Answer(task_id, spying(trace, codec=codec).content)

    value, error = read(call, Answer.opened(answer.sealed(KEY), KEY), MemoryContents())

    assert value is None and isinstance(error, RemoteTaskError)
    assert not trace.exists()


@given(found=picklable, raised=st.booleans())
def test_an_answer_of_any_form_ends_the_task(found: Any, raised: bool) -> None:
    call = Call("task", "a:b", Content("pickle", 0), 1.0, 0.0, 0)
    answer = Answer(
        "task", Content.of("pickle", encode("pickle", found), INLINE_BYTES * 10, MemoryContents()), raised=raised
    )

    value, error = read(call, answer, MemoryContents())

    assert isinstance(error, RemoteTaskError) if raised else (error is None and value == found)


@given(json_values)
def test_json_comes_back_unchanged(value: Any) -> None:
    assert decode("json", encode("json", value)) == value


@given(picklable, st.sampled_from(["pickle", "cloudpickle"]))
def test_pickled_values_come_back_unchanged(value: Any, codec: Codec) -> None:
    assert decode(codec, encode(codec, value)) == value


@given(st.lists(picklable, max_size=3), st.dictionaries(st.text(), picklable, max_size=3), st.booleans())
def test_calls_come_back_unchanged(args: list[Any], kwargs: dict[str, Any], large: bool) -> None:
    contents = MemoryContents()
    kwargs = {**kwargs, "large": b"x" * 100_000} if large else kwargs
    content = Content.of("pickle", encode_arguments("pickle", None, (args, kwargs), contents), INLINE_BYTES, contents)
    call = Call("task", "module:name", content, 1.5, 2.5, 3, attempt=4)

    opened = Call.opened(json.loads(json.dumps(call.sealed(KEY))), KEY)

    assert opened == call
    assert read_stored(decode("pickle", opened.content.read(contents)), contents) == (args, kwargs)
    assert any(len(each) > 100_000 for each in contents.stored.values()) == large


@given(facts=st.dictionaries(st.text(), json_values), raised=st.booleans(), error=st.text(), trace=st.text())
def test_answers_come_back_unchanged(facts: dict[str, Any], raised: bool, error: str, trace: str) -> None:
    answer = Answer("task", None, raised, error, trace, copy.deepcopy(facts))

    assert Answer.opened(json.loads(json.dumps(answer.sealed(KEY))), KEY) == answer


def held(content: str) -> Callable[[int], int]:
    return lambda _: len(content)


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize(
    ("codec", "function", "large"),
    [
        ("json", called.size, [BIG]),
        ("pickle", called.size, [BIG]),
        ("pickle", partial(called.size, BIG), []),
        ("cloudpickle", held(BIG), []),
    ],
)
def test_a_large_value_that_many_calls_share_is_stored_once(
    codec: Codec, function: Callable[..., int], large: list[str], chunksize: int
) -> None:
    store = MemoryObjectStore()
    backend = MemoryBackend(at_once=True, codec=codec, contents=StoredContents(store, "s3://bucket/functions/"))
    with LambdaExecutor(backend, codec=codec) as executor:
        sizes = executor.map(function, *map(repeat, large), range(12), chunksize=chunksize)

    assert list(sizes) == [len(BIG)] * 12
    assert [info.size_bytes // len(BIG) for info in store.list("s3://bucket/functions/")] == [1]


def test_a_json_worker_unpickles_no_stored_argument(trace: Path) -> None:
    contents = MemoryContents()
    spy = Content.of("pickle", encode("pickle", called.Spy(str(trace))), 0, contents)
    encoded = encode("json", {"arguments": [[asdict(spy)], {}]})
    call = replace(spying(trace), content=Content.of("json", encoded, INLINE_BYTES, contents))
    answer = Answer.opened(performer("json", contents).perform(call.sealed(KEY)), KEY)

    assert answer.content is None and not answer.raised
    assert not trace.exists()


def test_an_argument_shared_within_a_chunk_stays_one_object() -> None:
    contents, large = MemoryContents(), [BIG]
    encoded = encode_arguments("pickle", None, [(large, 1), (large, 2), ([BIG], 3)], contents)
    [first, _], [second, _], [third, _] = read_stored(decode("pickle", encoded), contents)

    assert first is second is not third
    assert first == third == large and len(contents.stored) == 1


def test_a_stored_argument_is_pinned_by_its_digest() -> None:
    contents = MemoryContents()
    encode_arguments("pickle", None, ((b"x" * 100_000,), {}), contents)
    [uri] = contents.stored
    pinned = Stored(Content("pickle", 1, uri=uri, sha256="0" * 64))

    with pytest.raises(PayloadError):
        read_stored(((pinned,), {}), contents)


@pytest.mark.parametrize(("number", "name"), [("nan", " NaN,"), ("inf", " Infinity,"), ("-inf", " -Infinity,")])
def test_a_number_that_json_lacks_is_refused_by_name(number: str, name: str) -> None:
    with LambdaExecutor(MemoryBackend(at_once=True, codec="json"), codec="json") as executor:
        argument = executor.submit(called.keep, [{"price": float(number)}])
        answer = executor.submit(called.parsed, number)

    assert isinstance(argument.exception(), PayloadError) and "an argument cannot" in str(argument.exception())
    for future in (argument, answer):
        assert f"it holds{name}" in str(future.exception()) and "use None" in str(future.exception())


def test_a_lambda_is_named_with_its_remedy() -> None:
    with pytest.raises(PayloadError, match=r"<lambda>.* pickle: .*codec=\"cloudpickle\""):  # not "a list"
        encode_arguments("pickle", lambda: 1, ((), {}), MemoryContents())
