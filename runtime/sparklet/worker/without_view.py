"""Inputs for a Spark without our S3A (``worker.inputs``), as on most engines: it reads whole files by their names.

Executors on other machines cannot read local files, so the copies of fetched inputs are in S3 while the script runs.
Inputs that only our S3A could present as planned are refused.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from sparklet.errors import PlanError
from sparklet.job.event_objects import GLOB
from sparklet.model import MIB, InputObject, SliceKind
from sparklet.ports import ObjectStore
from sparklet.worker.attempt import Attempt
from sparklet.worker.inputs import LOCAL, SparkInput, View, description_of, is_cut

BLOCK_BYTES = MIB // 2

_ESCAPED = re.compile(rb'\\[\\"]')


@dataclass(frozen=True)
class WithoutView(View):
    """Makes the inputs for a Spark without our S3A: addresses of objects, and copies of fetched inputs."""

    store: ObjectStore | None = None  # for copies, if executors cannot read this machine's files
    copies: str = ""  # the folder of the copies in the store

    patterns: ClassVar[str] = GLOB
    has_our_s3a: ClassVar[bool] = False

    @contextmanager
    def provide(self, attempt: Attempt, folder: Path, min_free_bytes: int) -> Iterator[tuple[SparkInput, ...]]:
        """See ``View``; if there is a store for copies, they are in S3 during the block."""
        self._refuse_unreadable()
        with super().provide(attempt, folder, min_free_bytes) as inputs:
            if any(each.copy for each in inputs) and self.script.filters_names(self.planned.params):
                raise PlanError(
                    "the script has pathGlobFilter, but on this engine fetched inputs have other names: select the "
                    "inputs with the run's --include instead, or run the script in Lambda functions"
                )
            if self.store is None:
                yield inputs
                return
            copy_uris = {each.path: f"{self.copies}/{each.copy.name}" for each in inputs if each.copy}
            try:
                for path, target in copy_uris.items():
                    self.store.upload(copy := Path(path.removeprefix(LOCAL)), target)
                    copy.unlink()
                yield tuple(replace(each, path=copy_uris.get(each.path, each.path)) for each in inputs)
            finally:
                self.store.delete_all(copy_uris.values(), self.copies)

    def with_script_path(self, fetched: SparkInput) -> SparkInput:
        """See ``View``: a copy is read as a file."""
        return replace(fetched, path=f"{LOCAL}{fetched.copy}")

    def check_rows(self, item: InputObject, rows: Iterator[bytes]) -> Iterator[bytes]:
        """See ``View``: PlanError if a row of CSV (the only format with a header) has a line end within quotes."""
        quotes, is_balanced = _Quotes(), True
        for chunk in rows:
            yield chunk
            if item.slice and item.slice.header_bytes:
                # In blocks: split into lines, a whole chunk of short lines could take 300 MB of memory.
                blocks = (chunk[offset : offset + BLOCK_BYTES] for offset in range(0, len(chunk), BLOCK_BYTES))
                is_balanced = all(map(quotes.balances_after, blocks))
            if not is_balanced:
                break
        if not is_balanced or quotes.in_quotes:
            raise PlanError(
                f"{description_of(item)} has a line with an odd number of quotes, so it has rows of several lines, "
                "which a slice can cut: plan without --split csv"
            )

    def _refuse_unreadable(self) -> None:
        """PlanError if Spark would list all of the run's input, read all of a file, or miss columns of folders."""
        items, partitions = self.planned.items, self.planned.partitions
        if self.reads_folder:
            raise PlanError(
                "the script gets the folder of its inputs, but on this engine Spark would list all files of the "
                "folder, not only the shard's: let the script read job.inputs, or run it in Lambda functions"
            )
        if any(item.slice and item.slice.kind is SliceKind.ROW_GROUPS for item in items):
            raise PlanError(
                "this engine's Spark reads S3 by its own file system, which cannot read a slice of a Parquet file: "
                "plan without --split, or run the script in Lambda functions"
            )
        if any(item.slice and is_cut(item) for item in items) and (option := self.script.option_of_rows):
            raise PlanError(
                f"the script has {option}, with which a slice can end within a row, and only Lambda functions respect "
                "this option in slices: plan without --split, or run the script in Lambda functions"
            )
        if partitions and not self.script.has_base_path:
            [root, *_] = partitions.values()
            raise PlanError(
                f"the inputs lie in folders like name=value below {root}, but on this engine Spark would read the "
                "files without these columns: give the reader that folder as basePath, or run the script in Lambda "
                "functions"
            )


class _Quotes:
    """Counts the quotes of each line, except quotes after a backslash."""

    def __init__(self) -> None:
        self.in_quotes = False  # whether the line so far has an odd number of quotes
        self._last_backslash = b""

    def balances_after(self, chunk: bytes) -> bool:
        """Take in the next chunk. Return whether each line that ends in it has an even number of quotes.

        An open quote and a backslash at the end are remembered for it. After False the state means nothing.
        """
        chunk = self._last_backslash + chunk
        last_backslashes = len(chunk) - len(chunk.rstrip(b"\\"))
        self._last_backslash = b"\\" * (last_backslashes % 2)  # the character that it escapes is in the next chunk
        chunk = chunk.removesuffix(self._last_backslash)
        if b"\\" in chunk:
            chunk = _ESCAPED.sub(b"", chunk)
        # Without a quote in the chunk, a line end is within quotes only if a quote was open before.
        if b'"' not in chunk:
            return not (self.in_quotes and b"\n" in chunk)
        *lines, last_line = chunk.split(b"\n")
        if lines:
            if (lines[0].count(b'"') + self.in_quotes) % 2 or any(line.count(b'"') % 2 for line in lines[1:]):
                return False
            self.in_quotes = False
        self.in_quotes ^= bool(last_line.count(b'"') % 2)
        return True
