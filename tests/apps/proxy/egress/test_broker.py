"""A credential stays in a proxy's memory for a minute at most, whatever the broker says."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from apps.policies.types import Binding, Injection
from apps.proxy.egress.broker import MOST_SECONDS, Broker, BrokerRefusedError
from apps.proxy.egress.config import EgressConfig
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
