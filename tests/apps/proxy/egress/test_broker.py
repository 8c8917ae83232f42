"""A credential stays in a proxy's memory for a minute at most, whatever the broker says."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from apps.policies.types import Binding, Injection
from apps.proxy.egress.broker import MOST_KNOWN, MOST_SECONDS, Broker, BrokerRefusedError
from apps.proxy.egress.config import EgressConfig
from apps.proxy.egress.inject import Injected
from tests.twins.egress import TOKEN, BrokerTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "api.example.com"
BINDING = Binding("b", "cred", "x", HOST, Injection.BEARER, (HOST,))


class Rig:
    """A broker, its client, and the client's clock."""

    def __init__(self, twin: BrokerTwin, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.twin = twin
        self.client = Broker(EgressConfig("sb", TOKEN, twin.path, folder, {}))
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def sent(self) -> str:
        """What would be sent now."""
        return self.client.credential(BINDING, HOST).line.removeprefix("Authorization: Bearer ")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    twin = BrokerTwin(tmp_path / "broker.sock")
    twin.values["cred"] = "first-value"
    yield Rig(twin, tmp_path, monkeypatch)
    twin.close()


@pytest.mark.parametrize("ttl", [60, 3600, 1e12])
def test_a_rotated_value_is_sent_after_a_minute_at_most(rig: Rig, ttl: float) -> None:
    rig.twin.ttl = ttl  # type: ignore[assignment]  # what a broker gone mad might say
    assert rig.sent() == "first-value"
    rig.twin.values["cred"] = "second-value"
    rig.now += MOST_SECONDS - 0.1
    assert rig.sent() == "first-value"
    rig.now += 0.2
    assert rig.sent() == "second-value"
    assert MOST_SECONDS == 60


def test_a_deleted_one_is_not_sent_after_a_minute_at_most(rig: Rig) -> None:
    assert rig.sent() == "first-value"
    del rig.twin.values["cred"]
    rig.now += MOST_SECONDS + 0.1
    with pytest.raises(BrokerRefusedError):
        rig.sent()


def test_with_a_new_policy_both_are_felt_at_once(rig: Rig) -> None:
    assert rig.sent() == "first-value"
    rig.twin.values["cred"] = "second-value"
    rig.client.forget()
    assert rig.sent() == "second-value"
    del rig.twin.values["cred"]
    rig.client.forget()
    with pytest.raises(BrokerRefusedError):
        rig.sent()


def test_each_binding_and_host_is_asked_about(rig: Rig) -> None:
    """A value that one host may have is not given to another from memory."""
    rig.sent()
    rig.client.credential(BINDING, "other.example.com")
    rig.client.credential(replace(BINDING, id="b2"), HOST)
    hosts = [question["host"] for question in rig.twin.asked]
    assert hosts == [HOST, "other.example.com", HOST]


def held(value: str) -> bool:
    """Whether the memory of this process holds a credential with this value."""
    return any(type(one) is Injected and value in one.line for one in gc.get_objects())


def test_nothing_stays_in_memory_that_nobody_asks_for_again(tmp_path: Path) -> None:
    twin = BrokerTwin(tmp_path / "broker.sock")
    twin.values["cred"], twin.ttl = "value-of-a-moment", 1
    client = Broker(EgressConfig("sb", TOKEN, twin.path, tmp_path, {}))
    for host in (HOST, "other.example.com"):
        client.credential(BINDING, host)
    assert held("value-of-a-moment")
    until = time.monotonic() + 10
    while held("value-of-a-moment"):
        assert time.monotonic() < until
        time.sleep(0.1)
    client.credential(BINDING, HOST)
    assert len(twin.asked) == 3
    twin.close()


def test_many_hosts_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Under a wildcard an agent makes up as many hosts as it likes."""
    twin = BrokerTwin(tmp_path / "broker.sock")
    twin.values["cred"] = "value-for-many-hosts"
    client = Broker(EgressConfig("sb", TOKEN, twin.path, tmp_path, {}))
    for number in range(2 * MOST_KNOWN):
        client.credential(BINDING, f"h{number}.example.com")
    found = [one for one in gc.get_objects() if type(one) is Injected]
    assert sum("value-for-many-hosts" in one.line for one in found) <= MOST_KNOWN
    twin.close()
