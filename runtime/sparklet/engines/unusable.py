"""An engine with wrong settings: it is refused by name, and the other engines work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparklet.errors import SettingsError
from sparklet.model import Failure
from sparklet.ports import Engine


@dataclass(frozen=True)
class Unusable(Engine):
    """An ``Engine`` that starts nothing, and why."""

    why: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Raise SettingsError."""
        raise SettingsError(self.why)

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Nothing is known of earlier workers."""
        return {}

    def stop(self, task_id: str) -> None:
        """Do nothing."""

    def unfit(self, table_format: str) -> str:
        """It is unfit for every run."""
        return self.why
