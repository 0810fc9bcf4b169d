"""Compares the manifests of two runs: each shard's inputs and its outcome must be equal, but not ids and times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
STATES = ("SUCCEEDED", "FAILED", "PENDING")

# Not compared: attempts and durations, which differ by chance, and addresses, which contain the run's id.
RUN_FIELDS = ("state", "generation", "counts", "objects", "input_bytes", "output_bytes", "rows", "causes")
OWN_FOLDER = re.compile(r"^shard=.+_(?=\d{6})")  # a shard's folder up to its number: the run's id and time
SHARD_FIELDS = ("Status", "RedriveCount", "Objects", "InputBytes", "OutputBytes", "Rows", "Error", "Cause")


def keep_manifests(read: Callable[[str], bytes], run_folder: str, folder: Path) -> None:
    """Copy a run's manifest, and the result files that it names, to a local folder; JSON files there are deleted first.

    Parameters
    ----------
    read
        Returns the bytes at an ``s3://`` address.
    run_folder
        ``s3://bucket/runs/RUN/``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old_file in folder.glob("*.json"):
        old_file.unlink()
    manifest = read(run_folder + MANIFEST)
    for entries in json.loads(manifest)["ResultFiles"].values():
        for entry in entries:
            name = entry["Key"].rpartition("/")[2]
            (folder / name).write_bytes(read(run_folder + name))
    (folder / MANIFEST).write_bytes(manifest)


def differences(one: Path, other: Path) -> Iterator[str]:
    """Yield a line for each difference between the runs in two local folders; none if only ids and times differ."""
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (one, other)]
    yield from _unequal("the run", RUN_FIELDS, *(manifest["run"] for manifest in manifests))
    yield from _unequal("its script", ("sha256",), *(manifest["run"]["scripts"][-1] for manifest in manifests))
    shards = [_shards(folder, manifest) for folder, manifest in zip((one, other), manifests, strict=True)]
    for number in sorted(shards[0].keys() | shards[1].keys()):
        first, second = (shards_of_run.get(number) for shards_of_run in shards)
        if first is None or second is None:
            yield f"shard {number} is in one of them only"
        else:
            yield from _unequal(f"shard {number}", (*SHARD_FIELDS, "outputs"), first, second)


def shard_count(folder: Path) -> int:
    """How many shards a run has in the result files of a local folder."""
    return len(_shards(folder, json.loads((folder / MANIFEST).read_text())))


def _shards(folder: Path, manifest: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """All shards of the result files, by number; a shard must be in exactly one file."""
    shard_by_number: dict[int, Mapping[str, Any]] = {}
    for path in sorted(path for state in STATES for path in folder.glob(f"{state}_*.json")):
        for entry in json.loads(path.read_text()):
            if entry["Shard"] in shard_by_number:
                raise ValueError(f"shard {entry['Shard']} is in two result files of {folder}")
            outputs = json.loads(entry.get("Output", "{}")).get("outputs", [])
            relative = sorted(
                OWN_FOLDER.sub("shard=", f"{uri}/".removeprefix(manifest["run"]["output"])) for uri in outputs
            )
            shard_by_number[entry["Shard"]] = {**entry, "outputs": relative}
    return shard_by_number


def _unequal(subject: str, fields: tuple[str, ...], one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for field in fields:
        if one.get(field) != other.get(field):
            yield f"{subject}: {field} is {one.get(field)!r} and {other.get(field)!r}"
