"""What every task queue promises: delivery, visibility, delays and dead letters."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparklet.errors import QueueError
from tests.contract.conftest import Queues
from tests.stand_ins.read_queues import ReadQueue, Received
from tests.waiting import eventually


def arrived(queue: ReadQueue) -> Sequence[Received]:
    """Wait for the next messages, and return them."""
    return eventually(lambda: queue.receive(wait_s=5))


def drain(queue: ReadQueue) -> list[Received]:
    """Receive and delete all visible messages; return them."""
    messages: list[Received] = []
    while batch := queue.receive():
        for message in batch:
            queue.delete(message.receipt)
        messages += batch
    return messages


def test_a_sent_message_is_received(queues: Queues) -> None:
    assert queues.main.send(["ünï\ncode", '{"run_id":"r"}']) == 2

    messages = drain(queues.main)

    assert sorted(m.body for m in messages) == sorted(["ünï\ncode", '{"run_id":"r"}'])
    assert [m.receive_count for m in messages] == [1, 1]
    assert len({m.message_id for m in messages}) == 2


def test_nothing_is_received_from_an_empty_queue(queues: Queues) -> None:
    assert list(queues.main.receive()) == []
    assert queues.main.send([]) == 0


def test_every_message_of_many_batches_arrives_once(queues: Queues) -> None:
    bodies = {f"message {number}" for number in range(1_003)}

    assert queues.main.send(iter(sorted(bodies))) == len(bodies)

    assert sorted(m.body for m in drain(queues.main)) == sorted(bodies)


def test_large_messages_are_sent_in_smaller_batches(queues: Queues) -> None:
    bodies = [f"{number}" * 100_000 for number in range(7)] + ["x" * 1_000_000]

    assert queues.main.send(bodies) == len(bodies)

    assert sorted(m.body for m in drain(queues.main)) == sorted(bodies)


def test_a_message_that_no_queue_takes_is_an_error(queues: Queues) -> None:
    with pytest.raises(QueueError):
        queues.main.send(["x" * (1024 * 1024 + 1)])


def test_no_more_is_received_than_requested(queues: Queues) -> None:
    queues.main.send(str(number) for number in range(30))

    assert len(queues.main.receive(most=3)) <= 3
    assert len(queues.main.receive(most=50)) <= 10


def test_a_received_message_is_invisible(queues: Queues) -> None:
    queues.main.send(["x"])
    queues.main.receive()

    assert list(queues.main.receive()) == []


def test_a_received_message_comes_back_after_the_visibility(short: Queues) -> None:
    short.main.send(["x"])
    (first,) = short.main.receive()

    (second,) = arrived(short.main)

    assert (first.receive_count, second.receive_count) == (1, 2)
    assert (second.message_id, second.body) == (first.message_id, "x")


def only_the_next_comes_back(queue: ReadQueue) -> None:
    """Assert that a message sent now is the next to be visible again, though it was received last."""
    queue.send(["next"])
    assert [m.body for m in queue.receive()] == ["next"]
    assert [(m.body, m.receive_count) for m in arrived(queue)] == [("next", 2)]


def test_a_deleted_message_does_not_come_back(short: Queues) -> None:
    short.main.send(["x"])
    (message,) = short.main.receive()

    short.main.delete(message.receipt)
    short.main.delete(message.receipt)

    only_the_next_comes_back(short.main)


def test_a_message_can_be_released_at_once(queues: Queues) -> None:
    queues.main.send(["x"])
    (message,) = queues.main.receive()

    queues.main.set_visibility(message.receipt, 0)

    assert [m.receive_count for m in queues.main.receive()] == [2]


def test_a_message_can_be_held_for_longer(short: Queues) -> None:
    short.main.send(["x"])

    def held() -> bool:
        """Whether the visibility was set in time; if not, the message is visible again and can be received anew."""
        since_s = short.clock.now_s()
        for message in short.main.receive():
            short.main.set_visibility(message.receipt, 600)
            return short.clock.now_s() < since_s + 1
        return False

    eventually(held)

    only_the_next_comes_back(short.main)


def test_a_late_change_of_visibility_loses_no_message(queues: Queues) -> None:
    """An expired receipt is no error: the message comes back by itself."""
    queues.main.send(["x"])
    (message,) = queues.main.receive()
    queues.main.set_visibility(message.receipt, 0)

    queues.main.set_visibility(message.receipt, 1)

    assert [m.body for m in arrived(queues.main)] == ["x"]


def test_a_change_of_a_deleted_message_is_no_error(queues: Queues) -> None:
    queues.main.send(["x"])
    (message,) = queues.main.receive()
    queues.main.delete(message.receipt)

    queues.main.set_visibility(message.receipt, 10)

    assert list(queues.main.receive()) == []


@pytest.mark.parametrize("visibility_s", [-1, 12 * 3600 + 1])
def test_a_visibility_that_no_queue_takes_is_an_error(queues: Queues, visibility_s: int) -> None:
    queues.main.send(["x"])
    (message,) = queues.main.receive()

    with pytest.raises(QueueError, match=str(visibility_s)):
        queues.main.set_visibility(message.receipt, visibility_s)


def test_a_delayed_message_comes_later(queues: Queues) -> None:
    queues.main.send(["much later"], delay_s=600)
    assert list(queues.main.receive()) == []

    queues.main.send(["x"], delay_s=1)

    assert [m.body for m in arrived(queues.main)] == ["x"]


def test_an_unprocessable_message_becomes_a_dead_letter(short: Queues) -> None:
    short.main.send(["poison", "fine"])

    def dead() -> list[Received]:
        for message in short.main.receive(wait_s=1):
            if message.body == "fine":
                short.main.delete(message.receipt)
        return drain(short.dead)

    assert [m.body for m in eventually(dead)] == ["poison"]
    assert list(short.main.receive()) == []


def test_eight_receivers_share_the_messages(queues: Queues) -> None:
    queues.main.send(str(number) for number in range(200))

    with ThreadPoolExecutor(8) as pool:
        received = [m.body for messages in pool.map(drain, [queues.main] * 8) for m in messages]

    assert sorted(received, key=int) == [str(number) for number in range(200)]
