"""How to call every public service of the control plane, for tests that run over all of them.

A recipe makes one call that changes something. Each of its rows is taken from a world by name, so
that a test can take any of them from the stranger's instead: that is the point.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apps
from apps.agents import services as agents
from apps.common import clock
from apps.connections import services as connections
from apps.orgs.models import Identity, Membership, UserSession
from apps.orgs.services.break_glass import break_glass_request
from apps.orgs.services.domains import domain_create
from apps.orgs.services.identity_providers import (
    fingerprint_of,
    idp_create,
    idp_enable,
    idp_prove,
)
from apps.orgs.services.invitations import invitation_create
from apps.orgs.services.mappings import mapping_create
from apps.orgs.types import SYSTEM
from apps.policies.documents import BindingDoc, DomainRuleDoc, PolicyDocument, document_of
from apps.policies.services import policy_save
from apps.sandboxes.models import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps.connections.models import Credential
    from apps.orgs.models import (
        BreakGlass,
        EmailDomain,
        GroupMapping,
        IdentityProvider,
        Invitation,
        User,
    )
    from apps.policies.models import Policy
    from tests.factories import World


@dataclass(frozen=True)
class Recipe:
    """`on` is the row that the service acts on, `rows` the other rows, `plain` the rest."""

    on: Callable[[World], Any]
    plain: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Callable[[World], Any]] = field(default_factory=dict)


@functools.cache
def public_services() -> dict[str, Callable[..., Any]]:
    """Every function in a `services` module that writes as an actor, by name."""
    return {
        name: found
        for module in _service_modules()
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        and "actor" in inspect.signature(found).parameters
        and found.__module__ == module.__name__
    }


def _service_modules() -> Iterator[Any]:
    for info in pkgutil.walk_packages(apps.__path__, "apps."):
        parts = info.name.split(".")
        if len(parts) >= 3 and parts[2] == "services":
            yield importlib.import_module(info.name)


def _membership(world: World) -> Membership:
    return Membership.objects.get(org=world.org, user=UUID(world.member.id))


def _spare_credential(world: World) -> Credential:
    """One that no policy binds, so that it can be deleted."""
    return connections.credential_create(
        world.org,
        slug="spare",
        name="Spare",
        value="secret-of-the-recipe",
        project=world.project,
        allowed_hosts=["api.example.com"],
        actor=SYSTEM,
    )


def _provider(world: World) -> IdentityProvider:
    return idp_create(
        world.org,
        name="SSO",
        issuer="https://sso.example.com",
        client_id="lens",
        secret="secret-of-the-recipe",
        actor=SYSTEM,
    )


def _other_provider(world: World) -> IdentityProvider:
    return idp_create(
        world.org,
        name="Other",
        issuer="https://other.example.com",
        client_id="lens",
        secret="secret-of-the-recipe",
        actor=SYSTEM,
    )


def _proven(world: World) -> IdentityProvider:
    idp = _provider(world)
    return idp_prove(idp, fingerprint=fingerprint_of(idp), by="a@b.example", actor=SYSTEM)


def _in_use(world: World) -> IdentityProvider:
    """One of two, so that it may be disabled."""
    for idp in (_other_provider(world), made := _provider(world)):
        proven = idp_prove(idp, fingerprint=fingerprint_of(idp), by="a@b.example", actor=SYSTEM)
        idp_enable(proven, actor=SYSTEM)
    return made


def _domain(world: World) -> EmailDomain:
    return domain_create(_provider(world), domain=f"{world.org.slug}.example", actor=SYSTEM)


def _mapping(world: World) -> GroupMapping:
    return mapping_create(_provider(world), group="sre", team=world.team, actor=SYSTEM)


def _invitation(world: World) -> Invitation:
    return invitation_create(world.org, email="guest@people.example", actor=SYSTEM).invitation


def _operator_access(world: World) -> BreakGlass:
    world.org.break_glass_consent = True
    return break_glass_request(
        world.org, reason="a test of ours", minutes=5, requested_by="root", actor=SYSTEM
    ).access


def _user(world: World) -> User:
    return _membership(world).user


def _session(world: World) -> UserSession:
    return UserSession.objects.create(
        org=world.org,
        idp=_provider(world),
        user=_user(world),
        subject="sub",
        expires_at=clock.now() + dt.timedelta(hours=1),
    )


def _signed_in(world: World) -> Membership:
    """Somebody whose account at a provider is known."""
    row, idp = _membership(world), _provider(world)
    Identity.objects.create(org=world.org, idp=idp, user=row.user, subject="sub")
    return row


def _sandbox(world: World) -> Sandbox:
    return Sandbox.objects.create(
        org=world.org,
        key=f"key of {world.org.slug}",
        principal_kind="agent",
        principal_id=str(world.agent.pk),
        principal_name=world.agent.name,
        agent=world.agent,
        team=world.team,
        project=world.project,
    )


def _new_document(world: World) -> PolicyDocument:
    return PolicyDocument(
        name="Leads policy",
        team=world.other_team,
        domains=(DomainRuleDoc("*.example.com", "allow"),),
    )


def _narrowed(world: World) -> PolicyDocument:
    binding = BindingDoc(world.credential, "api.github.com", method="GET")
    return replace(document_of(world.policy), bindings=(binding,))


def _changed(world: World) -> Policy:
    """A policy with a second version, so that the first one can come back."""
    document = replace(document_of(world.policy), description="Second.")
    return policy_save(world.org, document=document, policy=world.policy, actor=SYSTEM).policy


NEW = {"slug": "new", "name": "New"}
RECIPES: dict[str, Recipe] = {
    "organization_update": Recipe(lambda w: w.org, {"name": "New name"}),
    "idp_create": Recipe(
        lambda w: w.org,
        {
            "name": "SSO",
            "issuer": "https://sso.example.com",
            "client_id": "lens",
            "secret": "secret-of-the-recipe",
        },
    ),
    "idp_create_development": Recipe(lambda w: w.org, {"issuer": "http://127.0.0.1:9/"}),
    "idp_update": Recipe(_provider, {"name": "Other", "client_id": "other"}),
    "idp_enable": Recipe(_proven),
    "idp_disable": Recipe(_in_use),
    "idp_delete": Recipe(_provider),
    "domain_create": Recipe(_provider, {"domain": "people.example"}),
    "domain_move": Recipe(_domain, rows={"idp": _other_provider}),
    "domain_delete": Recipe(_domain),
    "mapping_create": Recipe(_provider, {"group": "sre"}, {"team": lambda w: w.team}),
    "mapping_update": Recipe(
        _mapping, {"group": "ops", "role": "member"}, {"team": lambda w: w.other_team}
    ),
    "mapping_delete": Recipe(_mapping),
    "invitation_create": Recipe(
        lambda w: w.org, {"email": "new@people.example"}, {"teams": lambda w: [w.team]}
    ),
    "invitation_revoke": Recipe(_invitation),
    "session_end": Recipe(_session),
    "membership_renew": Recipe(_membership),
    "identity_forget": Recipe(_signed_in),
    "break_glass_approve": Recipe(_operator_access),
    "break_glass_refuse": Recipe(_operator_access),
    "break_glass_end": Recipe(_operator_access),
    "user_deprovision": Recipe(_user, rows={"org": lambda w: w.org}),
    "team_create": Recipe(lambda w: w.org, NEW),
    "team_update": Recipe(lambda w: w.team, {"name": "Other"}),
    "team_delete": Recipe(lambda w: w.team),
    "project_create": Recipe(lambda w: w.org, NEW),
    "project_update": Recipe(lambda w: w.project, {"name": "Other"}),
    "project_delete": Recipe(lambda w: w.project),
    "user_invite": Recipe(lambda w: w.org, {"email": "new@people.example"}),
    "membership_update": Recipe(_membership, rows={"teams": lambda w: [w.other_team]}),
    "membership_remove": Recipe(_membership),
    "grant_set": Recipe(lambda w: w.team, rows={"project": lambda w: w.other_project}),
    "grant_remove": Recipe(lambda w: w.grant),
    "credential_create": Recipe(
        lambda w: w.org,
        {**NEW, "value": "secret-of-the-recipe", "allowed_hosts": ["api.example.com"]},
        {"project": lambda w: w.project, "allowed_teams": lambda w: [w.team]},
    ),
    "credential_update": Recipe(
        lambda w: w.credential, rows={"allowed_teams": lambda w: [w.team, w.other_team]}
    ),
    "credential_delete": Recipe(_spare_credential),
    "policy_save": Recipe(lambda w: w.org, rows={"document": _new_document}),
    "policy_save over one": Recipe(
        lambda w: w.org, rows={"document": _narrowed, "policy": lambda w: w.policy}
    ),
    "policy_apply": Recipe(
        lambda w: w.org,
        {
            "document": {
                "kind": "team",
                "team": "leads",
                "name": "Leads policy",
                "domains": [{"pattern": "*.example.com", "action": "allow"}],
            }
        },
    ),
    "policy_rollback": Recipe(_changed, {"number": 1}),
    "policy_delete": Recipe(lambda w: w.policy),
    "agent_create": Recipe(lambda w: w.org, NEW, {"team": lambda w: w.team}),
    "agent_update": Recipe(lambda w: w.agent, rows={"team": lambda w: w.other_team}),
    "agent_disable": Recipe(lambda w: w.agent),
    "agent_enable": Recipe(lambda w: agents.agent_disable(w.agent, actor=SYSTEM)),
    "agent_delete": Recipe(lambda w: w.agent),
    "token_create": Recipe(lambda w: w.agent, {"name": "New"}),
    "token_revoke": Recipe(lambda w: w.minted.token),
    "sandbox_stop": Recipe(_sandbox, {"reason": "A test."}),
}
