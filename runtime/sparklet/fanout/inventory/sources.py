"""Folders and single objects as candidates, the current version of each or every one."""

import json
from collections.abc import Iterator
from typing import Protocol

from sparklet.errors import ObjectNotFoundError
from sparklet.fanout.inventory.found import DELETE_MARKER, MISSING, Candidate
from sparklet.model import Position
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.s3_uri import SCHEME, split_uri


class Source(Protocol):
    """One of the inputs or lists of a run."""

    def candidates(self, at: Position) -> Iterator[Candidate]:
        """What it names behind a position; where slices are left to plan, their object first, once more."""

    def relative(self, uri: str) -> str:
        """What patterns are compared with."""


class CurrentObjects:
    """The objects of a folder (``s3://bucket/folder/``), or one object."""

    def __init__(self, store: ObjectStore, given: str) -> None:
        self._store, self._given = store, given

    def relative(self, uri: str) -> str:
        """The key below the folder; of a single object its file name."""
        return uri.removeprefix(self._given if self._given.endswith("/") else f"{self._given.rpartition('/')[0]}/")

    def candidates(self, at: Position) -> Iterator[Candidate]:
        """What is listed behind ``at.after``, a whole key."""
        if at.slices:
            yield self._headed(f"{SCHEME}{split_uri(self._given)[0]}/{at.after}", resumed=True)
        if self._given.endswith("/"):
            for info in self._store.list(self._given, at.after):
                yield Candidate(split_uri(info.uri)[1], info.uri, info)
        elif not at.after:
            yield self._headed(self._given)

    def _headed(self, uri: str, resumed: bool = False) -> Candidate:
        key = split_uri(uri)[1]
        try:
            return Candidate(key, uri, self._store.head(uri), resumed=resumed)
        except ObjectNotFoundError:
            return Candidate(key, uri, None, MISSING)


class AllVersions(CurrentObjects):
    """Every version of what lies in a folder, or of one object; the newest first."""

    def candidates(self, at: Position) -> Iterator[Candidate]:
        """What is listed behind ``at.after``, a key and a version of it."""
        key, version_id = json.loads(at.after) if at.after else ("", "")
        if at.slices:
            yield self._version(key, version_id)
        for info in self._store.list_versions(self._given, key, version_id):
            if self._given.endswith("/") or info.uri == self._given:
                yield Candidate(_after(info), info.uri, info, DELETE_MARKER if info.deleted else "")
            elif info.uri > self._given:
                return

    def _version(self, key: str, version_id: str) -> Candidate:
        uri, after = f"{SCHEME}{split_uri(self._given)[0]}/{key}", json.dumps([key, version_id])
        try:
            return Candidate(after, uri, self._store.head(uri, version_id), resumed=True)
        except ObjectNotFoundError:
            return Candidate(after, uri, None, MISSING)


def _after(info: ObjectInfo) -> str:
    return json.dumps([split_uri(info.uri)[1], info.version_id])
