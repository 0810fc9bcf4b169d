"""What the clock of the tests promises."""

from sparklet.ports import Clock
from tests.stand_ins.memory import FakeClock, SystemClock


def test_only_sleeping_and_advancing_move_it() -> None:
    clock = FakeClock(10.0)

    assert clock.now_s() == clock.now_s() == 10.0
    clock.sleep(2.5)
    clock.sleep(-5)
    clock.advance(1)
    assert clock.now_s() == 13.5


def test_both_clocks_implement_the_port() -> None:
    clocks: list[Clock] = [FakeClock(), SystemClock()]
    for clock in clocks:
        before_s = clock.now_s()
        clock.sleep(0.01)
        assert clock.now_s() >= before_s + 0.01
