"""The turn: one at a time, and nobody who waits keeps the others waiting."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from apps.proxy.egress.turn import Turn
from tests.apps.proxy.egress.conftest import request

if TYPE_CHECKING:
    from tests.apps.proxy.egress.conftest import Rig

H = "api.example.com"


def test_one_at_a_time() -> None:
    turn, inside, most = Turn(), [0], [0]

    def work() -> None:
        for _ in range(200):
            turn.take()
            turn.take()
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0)
            inside[0] -= 1
            assert turn.leave()
            assert not turn.leave()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1]


def test_who_has_not_the_turn_leaves_nothing() -> None:
    turn = Turn()
    turn.take()
    left: list[bool] = []
    stranger = threading.Thread(target=lambda: left.append(turn.leave()))
    stranger.start()
    stranger.join(5)
    assert left == [False]
    assert turn.leave()


def test_agents_that_do_not_read_hold_nobody_up(rig: Rig) -> None:
    with ExitStack() as stack:
        flood = request(H, "/admin/x") * 4000
        for _ in range(8):
            agent = stack.enter_context(rig.tunnel())
            agent.sock.settimeout(0.3)
            with suppress(TimeoutError):
                agent.send(flood)  # its answers fill every buffer on their way back
        started = time.monotonic()
        assert rig.get(H, "/open/x").status == 200
        assert time.monotonic() - started < 2


def test_an_upstream_that_does_not_answer_holds_nobody_up(rig: Rig) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            agent = stack.enter_context(rig.tunnel())
            agent.send(request(H, "/silent"))
        started = time.monotonic()
        assert rig.get(H, "/open/x").status == 200
        assert time.monotonic() - started < 1.5
