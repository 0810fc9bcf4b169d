"""Packed inputs: their content is unpacked completely, and files that cannot be unpacked safely are refused by name."""

import base64
import bz2
import gzip
import io
import lzma
import random
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sparklet.errors import EventError, TooLargeError
from sparklet.model import FIRST_BYTES, InputObject, is_misnamed
from sparklet.worker.unpacking import Member, unpack
from tests.archives import by_arrow, in_v7, skipped, tarred, zipped

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
    """The members that could be unpacked."""
    return {name: file for name, file in members if isinstance(file, Path)}


READ_BY_US = "f.csv.GZ f.gzip f.Bz2 f.xz f.zst f.zstd f.lz4 f.lzma f.zip f.tar.gz f.TAR f.tgz f.tar.bz2 f.Z f.7z f.rar"
READ_BY_US += " f.bzip2 f.lz"
READ_BY_SPARK = "a.csv a.csv.gz a.csv.bz2 a.snappy.parquet a.csv.deflate zip a.gz/b"


@pytest.mark.parametrize(
    ("name", "is_packed"),
    [*((name, True) for name in READ_BY_US.split()), *((name, False) for name in READ_BY_SPARK.split())],
)
def test_is_packed_recognizes_names_that_spark_does_not_unpack(name: str, is_packed: bool) -> None:
    assert InputObject(f"s3://b/{name}", 1, "e").is_packed == is_packed


TEXT = "id,v\n1,é\n" * 300
ARE_MISNAMED = {
    "a.csv": [gzip.compress(ROWS), bz2.compress(ROWS), zipped({"x": ROWS}), tarred({"x": ROWS}), lzma.compress(ROWS)],
    "b": [by_arrow("zstd", ROWS), by_arrow("lz4", ROWS), TEXT.encode("utf-16"), TEXT.encode("utf-32")],
    "b.csv": [in_v7({"x": ROWS}), skipped(b"") + by_arrow("zstd", ROWS), b"\x02\x21\x4c\x18", b"PK\x07\x08PK\x03\x04"],
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
def test_is_misnamed_compares_a_name_with_the_first_bytes(name: str) -> None:
    assert [is_misnamed(name, body[:FIRST_BYTES]) for body in ARE_MISNAMED.get(name, ())].count(False) == 0
    assert [is_misnamed(name, body[:FIRST_BYTES]) for body in ARE_NOT.get(name, ())].count(True) == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_utf_16_text_becomes_utf_8_and_its_original_is_kept(encoding: str, tmp_path: Path) -> None:
    path, own = tmp_path / "a.csv", "\ufeff".encode(f"{encoding}-be") + TEXT.encode(f"{encoding}-be")

    assert unpack(packed(path, own), "a.csv", 0, checks_first_bytes=True) == []
    [(member, file)] = files(
        unpack(packed(tmp_path / "z", zipped({"b.csv": own})), "z", 0, checks_first_bytes=True)
    ).items()

    assert (path.read_bytes(), (tmp_path / "a.csv.raw").read_bytes()) == (TEXT.encode(), own)
    assert (member, file.read_bytes()) == ("b.csv", TEXT.encode())


def test_a_packed_file_with_a_plain_name_keeps_its_name(tmp_path: Path) -> None:
    assert [name for name, _ in unpack(packed(tmp_path / "a", gzip.compress(ROWS)), "a.csv", 0)] == ["a.csv"]
    assert unpack(packed(tmp_path / "b", gzip.compress(ROWS)), "b.csv.gz", 0, checks_first_bytes=True) == []


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
def test_a_misnamed_file_that_cannot_be_unpacked_is_refused(name: str, body: bytes, tmp_path: Path) -> None:
    with pytest.raises(EventError, match=r"nor a known format|cannot be unpacked"):
        unpack(packed(tmp_path / name, body), name, 0, checks_first_bytes=True)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["f.csv.xz", "F.CSV.GZ"])
def test_a_file_is_unpacked_by_its_first_bytes(kind: str, name: str, tmp_path: Path) -> None:
    twice = PACKERS[kind](ROWS[:20_000]) + PACKERS[kind](ROWS[20_000:])

    [(member, path)] = files(unpack(packed(tmp_path / name, twice), name, 0)).items()

    assert member == name.rpartition(".")[0]
    assert path.read_bytes() == ROWS
    assert path.suffix == Path(member).suffix
    assert [each for each in tmp_path.iterdir() if each != path] == []


@pytest.mark.parametrize("pack", [zipped, tarred, in_v7, lambda members: gzip.compress(tarred(members))])
def test_all_files_of_an_archive_but_hidden_ones_are_unpacked(pack: Callable[..., bytes], tmp_path: Path) -> None:
    members = {"a.csv": ROWS, "in/b.csv": b"id\n1\n", "__MACOSX/a.csv": b"x", ".hidden": b"x", "in/_tmp/c.csv": b"x"}

    found = files(unpack(packed(tmp_path / "h.tar.gz", pack(members)), "h.tar.gz", 0))

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
        ("a.zip", with_password(), "its file a.csv has a password"),
        ("a.zip", zipped({"../a.csv": b""}), "leads out of the archive"),
        ("a.zip", zipped({"/etc/a.csv": b""}), "leads out of the archive"),
        ("a.tar", tarred({"in/../../a.csv": b""}), "leads out of the archive"),
        ("a.zip", zipped({"b.zip": zipped({"a.csv": b""})}), "its file b.zip is packed, too"),
        ("a.zip", zipped({"dt=1/a.csv": b""}), "folder of partitions"),
        ("a.zip", zipped({"_SUCCESS": b""}), "holds no file that Spark would read"),
        ("a.zip", zipped({"x/a.csv": b"", "x+a.csv": b""}), "two of its files would be x+a.csv"),
        ("a.zip", zipped({"a.csv": ROWS})[:-40], "cannot be unpacked"),
        ("a.csv.xz", lzma.compress(ROWS)[:-40], "cannot be unpacked"),
        ("a.csv.zst", by_arrow("zstd", ROWS)[:-4], "cannot be unpacked"),
        ("a.csv.lz4", by_arrow("lz4", ROWS)[:-40], "cannot be unpacked"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "in an unknown format"),
        ("a.csv.Z", b"\x1f\x9d\x90abc", "in an unknown format"),
        ("a.csv.xz", ROWS, "in an unknown format"),
        ("a.zip", b"", "in an unknown format"),
        ("a.zip", b"PK\x07\x08" + zipped({"a.csv": ROWS}), "in an unknown format"),
        ("a.zip", b"MZ\x90\x00" + zipped({"a.csv": ROWS}), "in an unknown format"),
        ("a.csv.lz4", ROWS, "in an unknown format"),
        ("a.csv.LZ4", b"\x00\x00\x00\x10\x00\x00\x00\x08abcdefgh", "in an unknown format"),
        ("a.tar.gz", gzip.compress(ROWS), "packed twice or in an unknown format"),
        ("a.xz.zst", by_arrow("zstd", lzma.compress(ROWS)), "packed twice or in an unknown format"),
        ("a.csv.lzma", ROWS, "cannot be unpacked"),
        ("a.csv.lz4", b"\x02\x21\x4c\x18\x01\x00\x00\x00a", "legacy format"),
        ("a.zip", zipped({"a.csv": ROWS}) + zipped({"b.csv": ROWS}), "several archives in one"),
        ("a.zip", zipped({"a.csv": ROWS}) + zipped({}), "several archives in one"),
        ("a.zip", zipped({"a.csv": ROWS}) + bytes(10) + b"\x01" + bytes(11), "several archives in one"),
        ("a.tar", tarred({"a.csv": ROWS}) + tarred({"b.csv": ROWS}), "several archives in one"),
        ("a.tar", tarred({"a.csv": bytes(512)})[:1024], "cut off"),
        ("a.GZ", gzip.compress(b"b" + tarred({"a.csv": ROWS})[1:]), "cannot be unpacked"),
        ("a.zip", zipped({"a.csv": b"/etc/passwd"}, stat.S_IFLNK), "its file a.csv is a link"),
        ("a.xlsx.zip", zipped({"[Content_Types].xml": b""}), "an Office document"),
    ],
)
def test_unsafe_damaged_or_unknown_packed_files_are_refused(name: str, body: bytes, cause: str, tmp_path: Path) -> None:
    with pytest.raises(EventError, match=cause.replace("+", r"\+")):
        unpack(packed(tmp_path / name, body), name, 0)


def flipped(body: bytes, index: int, bits: int) -> bytes:
    return body[:index] + bytes([body[index] ^ bits]) + body[index + 1 :]


def broken_zip() -> bytes:
    body = zipped({"a.csv": ROWS, "b.csv": b"id\n1\n"})
    return flipped(body, body.index(b"a.csv") + 400, 0xFF)  # within the compressed data


@pytest.mark.parametrize(
    ("name", "body", "bad", "cause"),
    [
        ("a.zip", broken_zip(), "a.csv", "cannot be unpacked"),
        ("a.zip", zipped({"b.csv": b"", "in/c.zip": b""}), "in+c.zip", "packed, too"),
        ("a.tar", tarred({"../a.csv": b"", "b.csv": b""}), "..+a.csv", "leads out of the archive"),
        ("a.zip", zipped({"b.csv": b"", "c.csv": TEXT.encode("utf-16")[:-1]}), "c.csv", "cannot be unpacked"),
    ],
)
def test_a_bad_file_of_an_archive_does_not_affect_the_others(
    name: str, body: bytes, bad: str, cause: str, tmp_path: Path
) -> None:
    found = dict(unpack(packed(tmp_path / name, body), name, 0, checks_first_bytes=True))

    error = found.pop(bad)
    assert isinstance(error, EventError) and cause in str(error)
    assert files([*found.items()]).keys() == {"b.csv"}


def test_only_the_named_files_of_an_archive_are_unpacked(tmp_path: Path) -> None:
    body = zipped({"a.csv": ROWS, "in/b.csv": b"id\n1\n", "c.zip": b"", "d.csv": b""})

    found = dict(unpack(packed(tmp_path / "a.zip", body), "a.zip", 0, only={"in+b.csv", "d.csv", "e.csv"}))

    assert "no longer" in str(found.pop("e.csv"))
    bodies = {name: file.read_bytes() for name, file in files([*found.items()]).items()}
    assert bodies == {"in+b.csv": b"id\n1\n", "d.csv": b""}


def test_a_decompression_bomb_is_refused_when_space_runs_out(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.gz", gzip.compress(bytes(64 * 1024 * 1024)))

    with pytest.raises(TooLargeError, match="no space left for what it holds"):
        unpack(path, "a.GZ", 1 << 60)


def test_hadoops_lz4_format_is_left_to_spark(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.lz4", b"\x00\x00\x00\x10\x00\x00\x00\x08abcdefgh")

    assert unpack(path, "a.lz4", 0) == []
    assert path.exists()


SMALL = b"id,v\n" + b"".join(b"%d,%d\n" % (n, n * n % 97) for n in range(40))
ZST = (
    "D77#B1X$Gr078x(5wIocIE9kHEajF`ro?6@aypw~eM6+LW%%TruS5BY7@y65A@oPYe!&br8J0&RFAxSVisL;fUW?&H@ZJ>dU0Ba$;01xz{iIHcq"
    "4RLMp3<4oIq+Qwx(l=28FVGqVo0lC*qk#lWmCqAU(hSNfWZP700;n=F{=R"
)
LZ4 = (
    "1R_lsWI(6n004k#WGr?HFf1?%F)T3(GAuL-Gb}j@G%PVT3N<V;H3~K?Gd2o0EHpU^I4m|a3OOt|F$ys-EHer*F)T7P3NbP)G&c${Gb}eU3NbV+"
    "G72#@EHg0*F*YnVG72#_EIBm_F*qzUGYT;|EH^L;GB7MLG72&=EHyI<GBPYVHVQH`EHpF<GBhkXF$yv@EHpC;GBzwZGzu~|EHy9+GB_+a3Nkq?"
    "HZ=+}Ff1}R3NtY*I5-M3GAuPT3Nte-GBOG?G%Pqd3Ntk<HZck_HY_tW3Ntq>F)<1=I4n3e3Ntw@HZ}?X00011v-5u"
)
STREAMS: dict[str, tuple[bytes, bytes]] = {
    "a.csv.GZ": (gzip.compress(SMALL), bytes(7)),
    "a.csv.BZ2": (bz2.compress(SMALL), bytes(3)),
    "a.csv.xz": (lzma.compress(SMALL), bytes(8)),
    "a.csv.lzma": (lzma.compress(SMALL, format=lzma.FORMAT_ALONE), b""),
    "a.csv.zst": (base64.b85decode(ZST), skipped(b"two")),  # pyarrow writes neither's checksum
    "a.csv.lz4": (base64.b85decode(LZ4), skipped(b"two")),
}
"""By the file's name: a stream, and padding that may lie between two streams."""
FILES = {"Old.csv": SMALL, "ends-in-18-chars.c": SMALL[90:], "in/logo": b"id"}
ARCHIVES: dict[str, bytes] = {
    "a.zip": zipped(FILES),
    "a.tar": tarred(FILES),
    "v7.tar": in_v7(FILES),
    "a.tar.gz": gzip.compress(tarred(FILES)),
    "a.tar.xz": lzma.compress(tarred(FILES)),
}


def read(name: str, body: bytes, folder: Path) -> dict[str, bytes] | None:
    """The contents of a packed file, by name; None if the packed file or a file in it is refused."""
    folder.mkdir()
    try:
        members = unpack(packed(folder / name, body), name, 0)
        bodies = {member: file.read_bytes() for member, file in members if isinstance(file, Path)}
        return bodies if len(bodies) == len(members) else None
    except EventError:
        return None
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", [*STREAMS, *ARCHIVES])
def test_a_damaged_file_is_unpacked_rightly_or_refused(name: str, tmp_path: Path) -> None:
    """The file is cut off or has a flipped bit, except where the format has no checksum."""
    body, start, end, draw = ARCHIVES.get(name, b""), 0, -1, random.Random(name)
    content = {file.replace("/", "+"): text for file, text in FILES.items()}
    if name in STREAMS:
        stream, between = STREAMS[name]
        start, end = len(stream), len(stream + between)  # a cut between these is one whole stream
        body, content = stream + between + stream, {name.rpartition(".")[0]: SMALL * 2}
    indexes = [*range(0 if name.endswith("lzma") else len(body))]  # lzma has no checksum, nor have files in a tar
    if name.endswith("tar"):
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            headers = [info.offset for info in archive] + [archive.offset]
        indexes = [index for index in indexes if any(header <= index < header + 512 for header in headers)]
    cuts = [body[:at] for at in draw.sample(range(len(body)), 60) if not start <= at <= end]
    flips = [flipped(body, index, 1 << draw.randrange(8)) for index in draw.sample(indexes, min(len(indexes), 120))]

    assert read(name, body, tmp_path / "whole") == content
    found = [read(name, each, tmp_path / "damaged") for each in (*cuts, *flips)]
    assert [each for each in found if each not in (None, content)] == []
    assert found.count(None) >= len(cuts)


@pytest.mark.parametrize(("at", "bits"), [(b"Old.csv", 0x10), (b"o", 0x40), (b"PK\x01\x02", 0x40)])
def test_a_flipped_bit_in_a_zips_directory_is_refused(at: bytes, bits: int, tmp_path: Path) -> None:
    """The flipped bit makes a name hidden or a folder's name, or a comment as long as the next entry."""
    body = zipped(FILES)
    directory = body.index(b"PK\x01\x02")
    index = directory + 32 if at.startswith(b"PK") else body.rindex(at)

    assert read("a.zip", flipped(body, index, bits), tmp_path / "a") is None


def test_a_skippable_frame_may_come_first(tmp_path: Path) -> None:
    for name in ("a.csv.zst", "a.csv.lz4"):
        assert read(name, skipped(b"first") + STREAMS[name][0], tmp_path / name) == {"a.csv": SMALL}


def test_an_lzma_file_is_recognized_by_its_name_alone(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA1, "lc": 2, "dict_size": 70_000}]
    body = lzma.compress(SMALL, format=lzma.FORMAT_ALONE, filters=filters)

    assert read("a.csv.lzma", body, tmp_path / "a") == {"a.csv": SMALL}
