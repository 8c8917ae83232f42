"""What a name server that belongs to the attacker can do, with real look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apps.proxy.egress.conftest import request
from tests.apps.proxy.egress.test_limits import PRIVATE
from tests.attacks.world import PUBLIC, PUBLIC_6

if TYPE_CHECKING:
    from tests.attacks.rigs import Caged

# A zone index is nothing that a name server can answer.
_ANSWERS = {name: tuple(values) for name, values in PRIVATE.items() if "%" not in values[0]}
_ALIAS = {"alias to private": "10.0.0.1", "alias to metadata": "169.254.169.254",
          "alias to loopback": "127.0.0.1"}  # fmt: skip


def _host(label: str) -> str:
    return f"{label.replace(' ', '-').lower()}.wild.example.com"


def _refused(rig: Caged, host: str) -> None:
    reply = rig.get(host, "/x")
    assert (reply.status, reply.json["layer"]) == (403, "builtin")
    assert rig.world.names.asked(host) == 1
    assert rig.untouched()


@pytest.mark.parametrize("label", _ANSWERS)
def an_answer_that_is_not_public(rig: Caged, label: str) -> None:
    """The rule allows the name; one address among its answers is not for agents."""
    rig.world.names.names[_host(label)] = [_ANSWERS[label]]
    _refused(rig, _host(label))


@pytest.mark.parametrize("label", _ALIAS)
def an_alias_to_what_is_not_public(rig: Caged, label: str) -> None:
    """The name is an alias (CNAME) of one that the attacker does not even own."""
    rig.world.names.names[_host(label)] = [("@inner.example.net",)]
    rig.world.names.names["inner.example.net"] = [(_ALIAS[label],)]
    _refused(rig, _host(label))


@pytest.mark.parametrize("then", ["127.0.0.1", "169.254.169.254", "::1"])
def a_name_that_is_rebound(rig: Caged, then: str) -> None:
    """Public at the first look, not at the second: the first connection never looks again."""
    host = _host(f"rebound-{then.replace(':', 'x').replace('.', '-')}")
    rig.world.names.names[host] = [(PUBLIC,), (then,)]
    with rig.tunnel(host) as agent:
        for _ in range(3):
            assert agent.ask(request(host, "/x")).status == 200
    assert rig.world.names.asked(host) == 1
    assert [seen.target for seen in rig.world.upstream.seen] == ["/x"] * 3
    rig.apply()  # closes the connection that was kept
    reply = rig.get(host, "/x")
    assert (reply.status, reply.json["layer"]) == (403, "builtin")
    assert rig.world.names.asked(host) == 2
    assert not rig.up.raw


def a_name_that_nobody_knows(rig: Caged) -> None:
    """Not found is an error of its own, and no way to anywhere."""
    reply = rig.get(_host("nobody"), "/x")
    assert (reply.status, reply.json["error"]) == (502, "upstream_dns")
    assert rig.untouched()


@pytest.mark.parametrize("addresses", [(PUBLIC,), (PUBLIC_6,), (PUBLIC, PUBLIC_6)])
def a_public_name(rig: Caged, addresses: tuple[str, ...]) -> None:
    """The same rule, a public address: the request arrives there."""
    host = _host(f"public-{len(''.join(addresses))}")
    rig.world.names.names[host] = [addresses]
    assert rig.get(host, "/x").status == 200
    assert [seen.target for seen in rig.world.upstream.seen] == ["/x"]


def a_public_alias(rig: Caged) -> None:
    """An alias is no sin."""
    rig.world.names.names[_host("fine")] = [("@inner.example.net",)]
    rig.world.names.names["inner.example.net"] = [(PUBLIC,)]
    assert rig.get(_host("fine"), "/x").status == 200
