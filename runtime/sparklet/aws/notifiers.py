"""Notices to Amazon SNS and Amazon EventBridge."""

from dataclasses import dataclass

from sparklet.aws.clients import AwsClients, failing_as
from sparklet.errors import NoticeError
from sparklet.model import Notice
from sparklet.ports import Notifier

EVENT_SOURCE = "sparklet"  # of notices on EventBridge


@dataclass(frozen=True)
class AwsNotifier:
    """A ``Notifier`` to an SNS topic, an EventBridge bus or both; one that fails does not keep it from the other.

    Subscriptions to the topic can filter by the attributes ``kind`` and ``state``. On the bus the source is
    ``sparklet``, the detail type ``Sparklet Run Ended`` and the like.
    """

    _clients: AwsClients
    _topic_arn: str
    _bus: str

    def notify(self, notice: Notice) -> None:
        problems = []
        for target, tell in ((self._topic_arn, self._publish), (self._bus, self._put_event)):
            try:
                if target:
                    tell(notice)
            except NoticeError as error:
                problems.append(str(error))
        if problems:
            raise NoticeError("; ".join(problems))

    def _publish(self, notice: Notice) -> None:
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

    def _put_event(self, notice: Notice) -> None:
        entry = {"EventBusName": self._bus, "Source": EVENT_SOURCE, "Detail": notice.to_json()}
        detail_type = f"Sparklet {notice.kind.title()} Ended"
        with failing_as(NoticeError, f"the bus {self._bus} took no notice"):
            answer = self._clients.events.put_events(Entries=[{**entry, "DetailType": detail_type}])  # type: ignore[typeddict-item]
        # PutEvents answers 200 even if it has taken none of the entries.
        if answer["FailedEntryCount"]:
            refused = answer["Entries"][0]
            why = f"{refused.get('ErrorCode', '')}: {refused.get('ErrorMessage', '')}"
            raise NoticeError(f"the bus {self._bus} took no notice: {why}")


def notifier_for(clients: AwsClients, topic_arn: str, bus: str) -> Notifier | None:
    """The notifier that the settings name; None if they name none."""
    return AwsNotifier(clients, topic_arn, bus) if topic_arn or bus else None
