"""An engine that cannot be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparklet.errors import SettingsError
from sparklet.model import Failure
from sparklet.ports import Engine


@dataclass(frozen=True)
class Unusable(Engine):
    """An engine that is named, but cannot be had; the other ones can."""

    why: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Raise SettingsError."""
        raise SettingsError(self.why)

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Nothing is known of them."""
        return {}

    def stop(self, task_id: str) -> None:
        """Leave it."""

    def unfit(self, table_format: str) -> str:
        """For every run."""
        return self.why
