"""Jars are fetched by real Java and real Ivy; the repository is a folder, in one test Maven Central."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.ivy import MIRROR_VARIABLE
from sparklet.local.jars import ensure_jars, load_stack
from tests.stand_ins.http_server import QuietHandler, serving
from tests.waiting import deadline_s

pytestmark = pytest.mark.slow
STACK = Path(__file__).parents[2] / "docker" / "stacks" / "spark-3.5.toml"
BIG_BYTES = 30_000_000


class Mirror:
    """A Maven repository in a folder, and a stack file that pins its jars."""

    def __init__(self, folder: Path) -> None:
        self.root, self.stack_file, self.cache_dir = folder / "my mirror", folder / "stack.toml", folder / "cache"
        self.stack_file.write_text('name = "tiny"\nspark = "3.5.9"\n')

    def publish(self, name: str, content: bytes, expected: bytes | None = None) -> Path:
        """Put a jar into the repository and pin it; as ``expected``, if the pin is to differ from the jar."""
        jar = self.root / "org" / "example" / name / "1" / f"{name}-1.jar"
        jar.parent.mkdir(parents=True)
        jar.write_bytes(content)
        expected = content if expected is None else expected
        with self.stack_file.open("a") as stack:
            stack.write(f'[[jar]]\ngroup = "g"\ncoordinate = "org.example:{name}:1"\n')
            stack.write(f'sha256 = "{hashlib.sha256(expected).hexdigest()}"\nsize_bytes = {len(expected)}\n')
        return jar

    def ensure(self) -> tuple[list[Path], list[str]]:
        """Fetch all jars; return their paths, and the lines of progress."""
        progress: list[str] = []
        return ensure_jars(self.stack_file, self.cache_dir, ["g"], progress.append), progress


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    mirror = Mirror(tmp_path)
    monkeypatch.setenv(MIRROR_VARIABLE, mirror.root.as_uri())
    return mirror


def _left_over(cache_dir: Path) -> list[str]:
    return sorted(path.name for path in cache_dir.glob(".incoming*"))


def test_jars_are_verified_in_order_and_fetched_once(mirror: Mirror) -> None:
    mirror.publish("zebra", b"z")
    published = mirror.publish("apple", b"a")

    jars, progress = mirror.ensure()

    assert [(jar.name, jar.read_bytes()) for jar in jars] == [("zebra-1.jar", b"z"), ("apple-1.jar", b"a")]
    assert MIRROR_VARIABLE in progress[0]
    assert "  fetched apple.jar" in progress
    assert _left_over(mirror.cache_dir) == []
    published.unlink()
    assert mirror.ensure() == (jars, [])


def test_changed_bytes_are_refused_and_not_kept(mirror: Mirror) -> None:
    mirror.publish("good", b"good")
    mirror.publish("bad", b"something else", expected=b"what was pinned")

    with pytest.raises(LocalStackError, match=r"bad-1\.jar is not the file it should be: sha256 \w+, expected \w+"):
        mirror.ensure()

    assert sorted(path.name for path in mirror.cache_dir.glob("*.jar")) == ["good-1.jar"]
    assert _left_over(mirror.cache_dir) == []


def test_a_missing_artifact_is_named_after_several_tries(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.local.ivy._PAUSE_S", 0)
    mirror.publish("gone", b"gone").unlink()

    with pytest.raises(LocalStackError) as caught:
        mirror.ensure()

    assert "gone-1.jar is not available" in str(caught.value)
    assert "the repository has no org.example:gone:1" in str(caught.value)
    assert MIRROR_VARIABLE in str(caught.value)


_FETCH = """
import sys
from pathlib import Path
from sparklet.local.jars import ensure_jars
for jar in ensure_jars(Path(sys.argv[1]), Path(sys.argv[2]), ["g"], lambda line: print(line, flush=True)):
    print("have", jar.name, len(jar.read_bytes()), flush=True)
"""


def _fetch(mirror: Mirror) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _FETCH, str(mirror.stack_file), str(mirror.cache_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


class Stalled(QuietHandler):
    """A server that sends half of a jar and then stalls."""

    half_sent: ClassVar[threading.Event]

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(BIG_BYTES))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(bytes(BIG_BYTES // 2))
        self.half_sent.set()
        threading.Event().wait(deadline_s())


def test_after_a_kill_the_next_fetch_cleans_up_and_succeeds(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.publish("big", os.urandom(BIG_BYTES))
    Stalled.half_sent = threading.Event()
    with serving(Stalled) as address, monkeypatch.context() as patch:
        patch.setenv(MIRROR_VARIABLE, address)
        victim = _fetch(mirror)
        assert Stalled.half_sent.wait(deadline_s())
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate()
    assert not (mirror.cache_dir / "big-1.jar").exists()
    assert _left_over(mirror.cache_dir) != []

    jars, _ = mirror.ensure()

    assert jars[0].stat().st_size == BIG_BYTES
    assert _left_over(mirror.cache_dir) == []


def test_maven_central_has_the_jar_that_the_stack_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    lines = STACK.read_text().split("[[jar]]")
    small = next(entry for entry in lines if "jmespath-java" in entry)
    stack_file = tmp_path / "one.toml"
    stack_file.write_text(f"{lines[0]}\n[[jar]]{small}")

    (jar,) = ensure_jars(stack_file, tmp_path / "cache", ["s3a"], lambda line: None)

    assert jar.stat().st_size == load_stack(stack_file).jars[0].size_bytes
