"""From what an attempt has staged to what readers see: copied file by file, once the ledger has named the winner.

An attempt writes below a folder of its own that no reader looks at. So two attempts never write one path, and one that
wakes up late writes where nobody reads. Any attempt may publish again: it copies the same files to the same places.
What is staged is deleted last, so a late copy finds nothing to copy. See ``docs/decisions/0029``.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparklet.errors import ObjectNotFoundError, ObjectStoreError, PlanError
from sparklet.model import Run, ShardResult
from sparklet.ports import ObjectStore

UNFINISHED = "_temporary"  # what Hadoop's committers leave behind of tasks that were killed


@dataclass(frozen=True, slots=True)
class StagedOutput:
    """What one attempt writes, and where it is published.

    ``staged`` and ``published`` are folders, as URIs without a slash at the end.
    """

    store: ObjectStore
    staged: str
    published: str

    @classmethod
    def of(cls, store: ObjectStore, bucket: str, run: Run, number: int, attempt_id: str) -> "StagedOutput":
        """The places of an attempt at a shard of a run."""
        staged = f"s3://{bucket}/staged/{run.run_id}/{number:06d}-{attempt_id}"
        return cls(store, staged, run.shard_output(number))

    def files(self) -> Sequence[str]:
        """URIs of what is staged, but for folder markers and what tasks left unfinished."""
        found = (info.uri for info in self.store.list(f"{self.staged}/"))
        return [uri for uri in found if not uri.endswith("/") and f"/{UNFINISHED}/" not in uri]

    def readable(self, result: ShardResult) -> ShardResult:
        """The result with the addresses that readers will find."""
        outputs = tuple(self._published(uri) for uri in result.outputs)
        return ShardResult(result.rows, result.output_bytes, outputs, result.answer, result.state)

    def publish(self, files: Sequence[str], check: Callable[[], None]) -> None:
        """Copy staged files; ``check`` is called before each one and may stop it with an error.

        Raises
        ------
        PlanError
            If nothing is staged, or some of it is gone: no attempt can bring it back.
        """

        def checked(uri: str) -> tuple[str, str]:
            check()
            return uri, self._published(uri)

        try:
            self.store.copy_all(map(checked, files))
        except ObjectNotFoundError as error:
            raise PlanError(f"what the winning attempt wrote is gone, start another run for it: {error}") from error

    def discard(self, files: Sequence[str] | None = None) -> None:
        """Delete what is staged, all of it or these files; ``clean`` finds what cannot be deleted now."""
        with suppress(ObjectStoreError):
            self.store.delete_all(self.files() if files is None else files)

    def _published(self, uri: str) -> str:
        inside = uri == self.staged or uri.startswith(f"{self.staged}/")
        return self.published + uri[len(self.staged) :] if inside else uri
