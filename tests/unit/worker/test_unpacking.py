"""Packed inputs: what is in them is read once, and what cannot be read as it is meant is refused by name."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sparklet.errors import EventError, TooLargeError
from sparklet.model import FIRST_BYTES, InputObject, is_misnamed
from sparklet.worker.unpacking import Member, unpacked
from tests.archives import by_arrow, tarred, zipped

ROWS = b"id,amount\n" + b"".join(b"%d,%d\n" % (n, n * 7) for n in range(5000))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda rows: lzma.compress(rows, format=lzma.FORMAT_ALONE),
    "zst": lambda rows: by_arrow("zstd", rows),
    "lz4": lambda rows: by_arrow("lz4", rows),
}


def packed(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def files(members: list[Member]) -> dict[str, Path]:
    """Those that could be unpacked."""
    return {name: file for name, file in members if isinstance(file, Path)}


READ_BY_US = "f.csv.GZ f.gzip f.Bz2 f.xz f.zst f.zstd f.lz4 f.lzma f.zip f.tar.gz f.TAR f.tgz f.tar.bz2 f.Z f.7z f.rar"
READ_BY_SPARK = "a.csv a.csv.gz a.csv.bz2 a.snappy.parquet a.csv.deflate zip a.gz/b"


@pytest.mark.parametrize(
    ("name", "is_packed"),
    [*((name, True) for name in READ_BY_US.split()), *((name, False) for name in READ_BY_SPARK.split())],
)
def test_names_tell_what_spark_does_not_read(name: str, is_packed: bool) -> None:
    assert InputObject(f"s3://b/{name}", 1, "e").is_packed == is_packed


TEXT = "id,v\n1,é\n" * 300
ARE_MISNAMED = {
    "a.csv": [gzip.compress(ROWS), bz2.compress(ROWS), zipped({"x": ROWS}), tarred({"x": ROWS}), lzma.compress(ROWS)],
    "b": [by_arrow("zstd", ROWS), by_arrow("lz4", ROWS), TEXT.encode("utf-16"), TEXT.encode("utf-32")],
    "c.csv.gz": [ROWS, bz2.compress(ROWS), gzip.compress(gzip.compress(ROWS)), gzip.compress(tarred({"x": ROWS}))],
    "d.json.gz": [gzip.compress(TEXT.encode("utf-16")), b"\xfe\xff" + TEXT.encode("utf-16-be")],
    "e.bz2": [ROWS, gzip.compress(ROWS)],
    "f.snappy": [ROWS, b"\xff\x06\x00\x00sNaPpY"],
    "g.lz4": [ROWS],
    "h.txt": [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x1f\x9d\x90"],
}
ARE_NOT = {
    "a.csv": [ROWS, b"", b"BZhang,1\n", b"PKT,1\n", b"ORCID\n", b"\xef\xbb\xbfid\n", b"PAR1,x\n", b"\xff,\xfe\n"],
    "a.csv.gz": [gzip.compress(ROWS), gzip.compress(b""), b"", gzip.compress(ROWS[:3])],
    "a.parquet": [b"PAR1\x15\x04"],
    "a.avro": [b"Obj\x01"],
    "a.bz2": [bz2.compress(ROWS), b""],
    "a.lz4": [b"\x00\x00\x00\x10\x00\x00\x00\x08abc", b"\x00\x00\xfe\xff\x00\x00\x00\x08abc"],
}


@pytest.mark.parametrize("name", [*ARE_MISNAMED, *ARE_NOT])
def test_first_bytes_tell_whether_a_name_is_right(name: str) -> None:
    assert [is_misnamed(name, body[:FIRST_BYTES]) for body in ARE_MISNAMED.get(name, ())].count(False) == 0
    assert [is_misnamed(name, body[:FIRST_BYTES]) for body in ARE_NOT.get(name, ())].count(True) == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_text_becomes_utf_8_with_its_own_beside_it(encoding: str, tmp_path: Path) -> None:
    path, own = tmp_path / "a.csv", "\ufeff".encode(f"{encoding}-be") + TEXT.encode(f"{encoding}-be")

    assert unpacked(packed(path, own), "a.csv", 0, looks=True) == []
    [(member, file)] = files(unpacked(packed(tmp_path / "z", zipped({"b.csv": own})), "z", 0, looks=True)).items()

    assert (path.read_bytes(), (tmp_path / "a.csv.raw").read_bytes()) == (TEXT.encode(), own)
    assert (member, file.read_bytes()) == ("b.csv", TEXT.encode())


def test_a_name_that_tells_nothing_stays(tmp_path: Path) -> None:
    assert [name for name, _ in unpacked(packed(tmp_path / "a", gzip.compress(ROWS)), "a.csv", 0)] == ["a.csv"]
    assert unpacked(packed(tmp_path / "b", gzip.compress(ROWS)), "b.csv.gz", 0, looks=True) == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.csv.gz", ROWS),
        ("a.csv", b"Rar!\x1a\x07"),
        ("a.csv.gz", gzip.compress(gzip.compress(ROWS))),
        ("a.csv", zipped({"b.csv": gzip.compress(ROWS)})),
        ("a.csv", TEXT.encode("utf-16")[:-1]),
    ],
)
def test_what_nothing_here_unpacks_is_refused(name: str, body: bytes, tmp_path: Path) -> None:
    with pytest.raises(EventError, match=r"nothing known here|cannot be unpacked"):
        unpacked(packed(tmp_path / name, body), name, 0, looks=True)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["f.csv.xz", "F.CSV.GZ"])
def test_first_bytes_tell_how_a_file_is_compressed(kind: str, name: str, tmp_path: Path) -> None:
    twice = PACKERS[kind](ROWS[:20_000]) + (PACKERS[kind](ROWS[20_000:]) if kind != "lzma" else b"")

    [(member, path)] = files(unpacked(packed(tmp_path / name, twice), name, 0)).items()

    assert member == name.rpartition(".")[0]
    assert path.read_bytes() == (ROWS if kind != "lzma" else ROWS[:20_000])
    assert path.suffix == Path(member).suffix
    assert [each for each in tmp_path.iterdir() if each != path] == []


@pytest.mark.parametrize("pack", [zipped, tarred, lambda members: gzip.compress(tarred(members))])
def test_an_archives_files_are_read_but_for_hidden_ones(pack: Callable[..., bytes], tmp_path: Path) -> None:
    members = {"a.csv": ROWS, "in/b.csv": b"id\n1\n", "__MACOSX/a.csv": b"x", ".hidden": b"x", "in/_tmp/c.csv": b"x"}

    found = files(unpacked(packed(tmp_path / "h.tar.gz", pack(members)), "h.tar.gz", 0))

    assert [(name, path.read_bytes()) for name, path in found.items()] == [("a.csv", ROWS), ("in+b.csv", b"id\n1\n")]
    assert sorted(tmp_path.iterdir()) == sorted(found.values())


def linked() -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        (link := tarfile.TarInfo("a.csv")).type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    return file.getvalue()


def with_password() -> bytes:
    body = bytearray(zipped({"a.csv": ROWS}))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(magic) + at] |= 1
    return bytes(body)


@pytest.mark.parametrize(
    ("name", "body", "cause"),
    [
        ("a.tar", linked(), "is a link or a device"),
        ("a.zip", with_password(), "a.csv in it has a password"),
        ("a.zip", zipped({"../a.csv": b""}), "lies outside of it"),
        ("a.zip", zipped({"/etc/a.csv": b""}), "lies outside of it"),
        ("a.tar", tarred({"in/../../a.csv": b""}), "lies outside of it"),
        ("a.zip", zipped({"b.zip": zipped({"a.csv": b""})}), "b.zip in it is packed, too"),
        ("a.zip", zipped({"dt=1/a.csv": b""}), "folder of partitions"),
        ("a.zip", zipped({"_SUCCESS": b""}), "holds no file that Spark would read"),
        ("a.zip", zipped({"x/a.csv": b"", "x+a.csv": b""}), "two of its files would be x+a.csv"),
        ("a.zip", zipped({"a.csv": ROWS})[:-40], "cannot be unpacked"),
        ("a.csv.xz", lzma.compress(ROWS)[:-40], "cannot be unpacked"),
        ("a.csv.zst", by_arrow("zstd", ROWS)[:-4], "cannot be unpacked"),
        ("a.csv.lz4", by_arrow("lz4", ROWS)[:-40], "cannot be unpacked"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "Spark reads no such files"),
        ("a.xlsx.zip", zipped({"[Content_Types].xml": b""}), "an Office document"),
    ],
)
def test_what_cannot_be_read_as_it_is_meant_is_refused(name: str, body: bytes, cause: str, tmp_path: Path) -> None:
    with pytest.raises(EventError, match=cause.replace("+", r"\+")):
        unpacked(packed(tmp_path / name, body), name, 0)


def broken_zip() -> bytes:
    body = zipped({"a.csv": ROWS, "b.csv": b"id\n1\n"})
    at = body.index(b"a.csv") + 400  # within what is compressed
    return body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]


@pytest.mark.parametrize(
    ("name", "body", "bad", "cause"),
    [
        ("a.zip", broken_zip(), "a.csv", "cannot be unpacked"),
        ("a.zip", zipped({"b.csv": b"", "in/c.zip": b""}), "in+c.zip", "packed, too"),
        ("a.tar", tarred({"../a.csv": b"", "b.csv": b""}), "..+a.csv", "lies outside of it"),
        ("a.zip", zipped({"b.csv": b"", "c.csv": TEXT.encode("utf-16")[:-1]}), "c.csv", "cannot be unpacked"),
    ],
)
def test_a_bad_file_of_an_archive_leaves_the_others(
    name: str, body: bytes, bad: str, cause: str, tmp_path: Path
) -> None:
    found = dict(unpacked(packed(tmp_path / name, body), name, 0, looks=True))

    error = found.pop(bad)
    assert isinstance(error, EventError) and cause in str(error)
    assert files([*found.items()]).keys() == {"b.csv"}


def test_only_what_is_asked_for_is_unpacked(tmp_path: Path) -> None:
    body = zipped({"a.csv": ROWS, "in/b.csv": b"id\n1\n", "c.zip": b"", "d.csv": b""})

    found = dict(unpacked(packed(tmp_path / "a.zip", body), "a.zip", 0, only={"in+b.csv", "d.csv", "e.csv"}))

    assert "no longer" in str(found.pop("e.csv"))
    bodies = {name: file.read_bytes() for name, file in files([*found.items()]).items()}
    assert bodies == {"in+b.csv": b"id\n1\n", "d.csv": b""}


def test_a_bomb_ends_where_space_does(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.gz", gzip.compress(bytes(64 * 1024 * 1024)))

    with pytest.raises(TooLargeError, match="no space left for what it holds"):
        unpacked(path, "a.GZ", 1 << 60)


def test_lz4_as_hadoop_writes_it_is_left_to_spark(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.lz4", b"\x00\x00\x00\x10\x00\x00\x00\x08abcdefgh")

    assert unpacked(path, "a.lz4", 0) == []
    assert path.exists()
