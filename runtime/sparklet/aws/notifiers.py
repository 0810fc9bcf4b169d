"""Notices to Amazon SNS and Amazon EventBridge."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.aws.clients import AwsClients, failing_as
from sparklet.errors import NoticeError
from sparklet.model import Notice
from sparklet.ports import Notifier

EVENT_SOURCE = "sparklet"  # of notices on EventBridge


@dataclass(frozen=True)
class SnsNotifier:
    """A ``Notifier`` to an SNS topic; subscriptions can filter by the attributes ``kind`` and ``state``."""

    _clients: AwsClients
    _topic_arn: str

    def notify(self, notice: Notice) -> None:
        """Publish a notice."""
        kind_and_state = {"kind": notice.kind, "state": notice.state}
        with failing_as(NoticeError, f"the topic {self._topic_arn} took no notice"):
            self._clients.sns.publish(
                TopicArn=self._topic_arn,
                Subject=notice.subject,
                Message=notice.to_json(),
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in kind_and_state.items()
                },
            )


@dataclass(frozen=True)
class EventBridgeNotifier:
    """A ``Notifier`` to an EventBridge bus: source ``sparklet``, detail type ``Sparklet Run Ended`` and the like."""

    _clients: AwsClients
    _bus: str

    def notify(self, notice: Notice) -> None:
        """Put a notice as an event."""
        entry = {"EventBusName": self._bus, "Source": EVENT_SOURCE, "Detail": notice.to_json()}
        detail_type = f"Sparklet {notice.kind.title()} Ended"
        with failing_as(NoticeError, f"the bus {self._bus} took no notice"):
            answer = self._clients.events.put_events(Entries=[{**entry, "DetailType": detail_type}])  # type: ignore[typeddict-item]
        if answer["FailedEntryCount"]:
            refused = answer["Entries"][0]
            why = f"{refused.get('ErrorCode', '')}: {refused.get('ErrorMessage', '')}"
            raise NoticeError(f"the bus {self._bus} took no notice: {why}")


@dataclass(frozen=True)
class EveryNotifier:
    """A ``Notifier`` to several: one that cannot be reached does not keep the notice from the others."""

    _notifiers: Sequence[Notifier]

    def notify(self, notice: Notice) -> None:
        """Notify each; those that could not be reached are in the error."""
        problems = []
        for notifier in self._notifiers:
            try:
                notifier.notify(notice)
            except NoticeError as error:
                problems.append(str(error))
        if problems:
            raise NoticeError("; ".join(problems))


def notifier_for(clients: AwsClients, topic_arn: str, bus: str) -> Notifier | None:
    """The notifier that the settings name; None if they name none."""
    named: list[Notifier] = [SnsNotifier(clients, topic_arn)] if topic_arn else []
    if bus:
        named.append(EventBridgeNotifier(clients, bus))
    return EveryNotifier(named) if named else None
