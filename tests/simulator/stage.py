"""What the comparison runs on: one organization, the platform on a port, a proxy and upstreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import close_old_connections

from apps.connections import services as connections
from apps.policies.compiler import compile_bundle
from apps.policies.simulator import Question
from tests import factories
from tests.apps.mcp.conftest import Server
from tests.simulator.chance import HOSTS, Chance
from tests.simulator.edges import Egress, SimulatePage
from tests.twins.ca import TwinCa
from tests.twins.egress import EgressTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from tests.factories import World

__all__ = ["Question", "Stage", "build"]


@dataclass
class Stage:
    """Everything that runs."""

    world: World
    base: str
    token: str
    chance: Chance
    page: SimulatePage
    egress: Egress
    twin: EgressTwin

    def change(self) -> None:
        """Save other policies, and give the proxy the bundle that its sandbox would get."""
        self.chance.policies()
        world = self.world
        bundle = compile_bundle(
            org_id=world.org.pk,
            team_id=world.team.pk,
            project_id=world.project.pk,
            agent_id=world.agent.pk,
        )
        answer = self.twin.apply(bundle)
        assert answer == {"op": "applied", "version": bundle.version}, answer


def build(folder: Path, stack: ExitStack, seed: int) -> Stage:
    """Start it all."""
    authority = TwinCa()
    secure = stack.enter_context(UpstreamTwin(authority.issue(folder, *HOSTS)))
    plain = stack.enter_context(UpstreamTwin())
    ca_file = folder / "upstream-ca.pem"
    ca_file.write_text(authority.pem)
    places = {}
    for host in HOSTS:
        places[host] = ("127.0.0.1", secure.port)
        places |= {f"{host}:{port}": ("127.0.0.1", plain.port) for port in (80, 8080)}
    twin = stack.enter_context(EgressTwin(folder, address_map=places, upstream_ca_file=ca_file))
    twin.upstream_ca_pem = authority.pem  # type: ignore[attr-defined]  # read by Egress
    world = factories.acme()
    names = {}
    credentials = []
    for number in range(2):
        value = f"value-of-credential-{number}-0123456789"
        row = connections.credential_create(
            world.org,
            slug=f"c{number}",
            name=f"Credential {number}",
            value=value,
            allowed_hosts=["*.example.com", "api.example.com:8443", "other.test"],
            allowed_teams=[world.team],
            actor=world.admin,
        )
        credentials.append(row)
        names[value] = row.name
        twin.broker.values[str(row.pk)] = value
    server = Server()
    server.begin()
    stack.callback(close_old_connections)
    stack.callback(server.stop)
    base = server.url.removesuffix("/mcp")
    return Stage(
        world=world,
        base=base,
        token=world.minted.value,
        chance=Chance(seed, world, credentials),
        page=SimulatePage(base, world),
        egress=Egress(twin, (secure, plain), names),
        twin=twin,
    )
