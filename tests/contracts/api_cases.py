"""Every operation of the REST API, asked by everybody: what to send, and what each gets.

A test fails for an operation of the OpenAPI document without a case here. `answers` are those of
the admin, the auditor, a member of team `sre`, the admin of the project (team `leads`), a person in
no team, and the agent's token (team `sre`), in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from apps.audit.models import AuditEvent
from apps.orgs import services
from apps.orgs.models import IdentityProvider, Invitation, Membership
from apps.orgs.types import SYSTEM
from apps.sandboxes.models import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.factories import World

ACTORS = ("admin", "auditor", "member", "project_admin", "outsider", "agent")


@dataclass(frozen=True)
class Case:
    """`path` is below `/api/v1`; `body` of this world; `answers` by actor."""

    path: Callable[[World], str]
    answers: str
    body: Callable[[World], Any] | None = None

    def expected(self, actor: str) -> int:
        """The status for this actor."""
        return int(self.answers.split()[ACTORS.index(actor)])


def membership_of(world: World) -> Membership:
    """The member's."""
    return Membership.objects.get(org=world.org, user=UUID(world.member.id))


def provider_of(world: World) -> IdentityProvider:
    """Some provider of the organization."""
    found = IdentityProvider.objects.filter(org=world.org).first()
    assert found is not None
    return found


def invitation_of(world: World) -> Invitation:
    """An open one."""
    found = Invitation.objects.filter(org=world.org).first()
    if found is not None:
        return found
    email = f"guest@{world.org.slug}.example"
    return services.invitation_create(world.org, email=email, actor=SYSTEM).invitation


def event_of(world: World) -> AuditEvent:
    """The oldest event of the organization."""
    found = AuditEvent.objects.filter(org=world.org).order_by("at").first()
    assert found is not None
    return found


def sandbox_of(world: World) -> Sandbox:
    """A live sandbox of the agent."""
    return Sandbox.objects.get_or_create(
        org=world.org,
        key=f"sandbox of {world.org.slug}",
        defaults={
            "principal_kind": "agent",
            "principal_id": str(world.agent.pk),
            "principal_name": "Bot",
            "agent": world.agent,
            "team": world.team,
            "project": world.project,
        },
    )[0]


def fixed(path: str) -> Callable[[World], str]:
    """A path without an object."""
    return lambda _: path


def of(resource: str, name: str, below: str = "") -> Callable[[World], str]:
    """The path of one of the world's objects."""
    return lambda world: f"/{resource}/{getattr(world, name).pk}{below}"


def made(resource: str, find: Callable[[World], Any], below: str = "") -> Callable[[World], str]:
    """The path of an object that is looked up."""
    return lambda world: f"/{resource}/{find(world).pk}{below}"


def new(_: World) -> dict[str, Any]:
    """A new named thing."""
    return {"slug": f"new-{uuid4().hex[:8]}", "name": "New"}


def sre_policy(_: World) -> dict[str, Any]:
    """A document of the team `sre`."""
    return {
        "kind": "team",
        "team": "sre",
        "name": "SRE policy",
        "domains": [{"pattern": "api.example.com", "action": "allow"}],
        "tools": [{"pattern": "*", "action": "allow"}],
    }


def named(_: World) -> dict[str, Any]:
    """A new name."""
    return {"name": "Other"}


CASES: dict[str, Case] = {
    "whoami_get": Case(fixed("/whoami"), "200 200 200 200 200 200"),
    "organizations_list": Case(fixed("/organizations"), "200 200 200 200 200 403"),
    "organizations_get": Case(of("organizations", "org"), "200 200 200 200 200 404"),
    "organizations_update": Case(of("organizations", "org"), "200 403 403 403 403 404", named),
    "teams_list": Case(fixed("/teams"), "200 200 200 200 403 200"),
    "teams_create": Case(fixed("/teams"), "201 403 403 403 403 403", new),
    "teams_get": Case(of("teams", "team"), "200 200 200 404 404 200"),
    "teams_update": Case(of("teams", "team"), "200 403 403 404 404 403", named),
    "teams_delete": Case(of("teams", "team"), "204 403 403 404 404 403"),
    "projects_list": Case(fixed("/projects"), "200 200 200 200 403 200"),
    "projects_create": Case(fixed("/projects"), "201 403 403 403 403 403", new),
    "projects_get": Case(of("projects", "project"), "200 200 200 200 404 200"),
    "projects_update": Case(of("projects", "project"), "200 403 403 200 404 403", named),
    "projects_delete": Case(of("projects", "project"), "204 403 403 403 404 403"),
    "grants_list": Case(fixed("/grants"), "200 200 200 200 403 200"),
    "grants_create": Case(
        fixed("/grants"),
        "201 403 403 403 403 403",
        lambda w: {"team": str(w.team.pk), "project": str(w.other_project.pk)},
    ),
    "grants_get": Case(of("grants", "grant"), "200 200 200 200 404 200"),
    "grants_update": Case(
        of("grants", "grant"), "200 403 403 403 404 403", lambda _: {"role": "admin"}
    ),
    "grants_delete": Case(of("grants", "grant"), "204 403 403 403 404 403"),
    "memberships_list": Case(fixed("/memberships"), "200 200 403 403 403 403"),
    "memberships_create": Case(
        fixed("/memberships"),
        "201 403 403 403 403 403",
        lambda _: {"email": f"{uuid4().hex[:8]}@people.example"},
    ),
    "memberships_get": Case(made("memberships", membership_of), "200 200 404 404 404 404"),
    "memberships_update": Case(
        made("memberships", membership_of),
        "200 403 404 404 404 404",
        lambda w: {"teams": [str(w.other_team.pk)]},
    ),
    "memberships_delete": Case(made("memberships", membership_of), "204 403 404 404 404 404"),
    "identity_providers_list": Case(fixed("/identity-providers"), "200 200 403 403 403 403"),
    "identity_providers_create": Case(
        fixed("/identity-providers"),
        "201 403 403 403 403 403",
        lambda _: {
            "name": "SSO",
            "issuer": f"https://{uuid4().hex[:8]}.example.com",
            "client_id": "lens",
            "secret": "secret-of-the-case",
        },
    ),
    "identity_providers_get": Case(
        made("identity-providers", provider_of), "200 200 404 404 404 404"
    ),
    "identity_providers_update": Case(
        made("identity-providers", provider_of), "200 403 404 404 404 404", named
    ),
    "identity_providers_delete": Case(
        made("identity-providers", provider_of), "409 403 404 404 404 404"
    ),
    "identity_providers_enable": Case(
        made("identity-providers", provider_of, "/enable"), "200 403 404 404 404 404"
    ),
    "identity_providers_disable": Case(
        made("identity-providers", provider_of, "/disable"), "409 403 404 404 404 404"
    ),
    "invitations_list": Case(fixed("/invitations"), "200 200 403 403 403 403"),
    "invitations_create": Case(
        fixed("/invitations"),
        "201 403 403 403 403 403",
        lambda w: {"email": f"{uuid4().hex[:8]}@people.example", "teams": [str(w.team.pk)]},
    ),
    "invitations_get": Case(made("invitations", invitation_of), "200 200 404 404 404 404"),
    "invitations_delete": Case(made("invitations", invitation_of), "204 403 404 404 404 404"),
    "agents_list": Case(fixed("/agents"), "200 200 200 200 403 200"),
    "agents_create": Case(
        fixed("/agents"),
        "201 403 403 403 403 403",
        lambda w: {**new(w), "team": str(w.team.pk)},
    ),
    "agents_get": Case(of("agents", "agent"), "200 200 200 404 404 200"),
    "agents_update": Case(of("agents", "agent"), "200 403 403 404 404 403", named),
    "agents_delete": Case(of("agents", "agent"), "204 403 403 404 404 403"),
    "agents_disable": Case(of("agents", "agent", "/disable"), "200 403 403 404 404 403"),
    "agents_enable": Case(of("agents", "agent", "/enable"), "200 403 403 404 404 403"),
    "tokens_list": Case(fixed("/tokens"), "200 200 403 403 403 403"),
    "tokens_create": Case(
        fixed("/tokens"),
        "201 403 403 403 403 403",
        lambda w: {"agent": str(w.agent.pk), "name": "New"},
    ),
    "tokens_get": Case(
        lambda w: f"/tokens/{w.minted.token.pk}",
        "200 200 404 404 404 404",
    ),
    "tokens_delete": Case(
        lambda w: f"/tokens/{w.minted.token.pk}",
        "204 403 404 404 404 404",
    ),
    "credentials_list": Case(fixed("/credentials"), "200 200 403 200 403 403"),
    "credentials_create": Case(
        fixed("/credentials"),
        "201 403 403 201 403 403",
        lambda w: {
            **new(w),
            "value": "secret-of-the-case",
            "project": str(w.project.pk),
            "allowed_hosts": ["api.example.com"],
        },
    ),
    "credentials_get": Case(of("credentials", "credential"), "200 200 404 200 404 404"),
    "credentials_update": Case(
        of("credentials", "credential"),
        "200 403 404 200 404 404",
        lambda _: {"value": "secret-of-the-case"},
    ),
    "credentials_delete": Case(of("credentials", "credential"), "409 403 404 409 404 404"),
    "audit_events_list": Case(fixed("/audit-events"), "200 200 403 403 403 403"),
    "audit_events_get": Case(made("audit-events", event_of), "200 200 404 404 404 404"),
    "policies_list": Case(fixed("/policies"), "200 200 200 200 403 200"),
    "policies_create": Case(
        fixed("/policies"),
        "201 403 403 403 403 403",
        lambda _: {"kind": "team", "team": "leads", "name": "Leads", "tools": []},
    ),
    "policies_get": Case(of("policies", "policy"), "200 200 200 404 404 200"),
    "policies_replace": Case(of("policies", "policy"), "200 403 403 404 404 403", sre_policy),
    "policies_delete": Case(of("policies", "policy"), "204 403 403 404 404 403"),
    "policies_apply": Case(fixed("/policies/apply"), "200 403 403 403 403 403", sre_policy),
    "policies_validate": Case(fixed("/policies/validate"), "200 403 403 403 403 403", sre_policy),
    "policies_diff": Case(fixed("/policies/diff"), "200 403 403 403 403 403", sre_policy),
    "policies_simulate": Case(
        fixed("/policies/simulate"),
        "200 200 200 400 403 200",
        lambda w: {"team": str(w.team.pk), "requests": [{"tool": "shell_exec"}]},
    ),
    "policies_versions": Case(of("policies", "policy", "/versions"), "200 200 200 404 404 200"),
    "policies_version": Case(of("policies", "policy", "/versions/1"), "200 200 200 404 404 200"),
    "policies_changes": Case(of("policies", "policy", "/changes?old=1"), "200 200 200 404 404 200"),
    "policies_rollback": Case(
        of("policies", "policy", "/rollback"), "200 403 403 404 404 403", lambda _: {"number": 1}
    ),
    "sandboxes_list": Case(fixed("/sandboxes"), "200 200 200 200 403 200"),
    "sandboxes_get": Case(made("sandboxes", sandbox_of), "200 200 200 200 404 200"),
    "sandboxes_stop": Case(
        made("sandboxes", sandbox_of, "/stop"), "200 403 403 403 404 403", lambda _: {}
    ),
}
# The fixture's agent and provider are enabled already, its policy is at its first version.
CHANGES_NOTHING = {
    "agents_enable",
    "identity_providers_enable",
    "policies_validate",
    "policies_diff",
    "policies_simulate",
    "policies_rollback",
}
