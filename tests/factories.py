"""Tenants for tests, made through the services: two organizations that must never see each other.

`acme()` and `globex()` have the same shape; Globex is the stranger of every access test. Each role
has a person, so that a test names who acts: `world.admin`, `world.auditor`, `world.member`, …

A world is built through the services once a process; after that its rows are put back as they
were, which takes a tenth of the time. Only the Revision goes on, in large steps, so that no cache
mistakes one test's world for another's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from django.apps import apps as django_apps
from django.db import transaction

from apps.agents import services as agents
from apps.connections import services as connections
from apps.orgs import revision
from apps.orgs import services as orgs
from apps.orgs.models import Revision
from apps.orgs.selectors import actor_for
from apps.orgs.types import SYSTEM
from apps.policies import services as policies
from apps.policies.documents import BindingDoc, DomainRuleDoc, PolicyDocument, ToolRuleDoc

if TYPE_CHECKING:
    from django.db.models import Model

    from apps.agents.models import Agent
    from apps.agents.services import Minted
    from apps.connections.models import Credential
    from apps.orgs.models import Organization, Project, ProjectGrant, Team
    from apps.orgs.types import Actor
    from apps.policies.models import Policy

SECRET_VALUE = "ghp_this-is-the-secret-of-the-tests"


@dataclass(frozen=True)
class World:
    """One organization with a team at work in a project, and a person for each role."""

    org: Organization
    team: Team
    other_team: Team
    project: Project
    other_project: Project
    grant: ProjectGrant
    admin: Actor
    auditor: Actor
    member: Actor
    project_admin: Actor
    outsider: Actor
    credential: Credential
    policy: Policy
    agent: Agent
    minted: Minted


def acme() -> World:
    """The organization under test."""
    return world("acme", "Acme Corp")


def globex() -> World:
    """The stranger."""
    return world("globex", "Globex")


_built: dict[str, tuple[World, list[Model]]] = {}
_revisions = count(1_000_000, 1_000)


def world(slug: str, name: str) -> World:
    """The world of this slug, with all its rows in the database."""
    if slug not in _built:
        before = _stored()
        made = _build(slug, name)
        _built[slug] = copy.deepcopy((made, [row for row in _stored() if row not in before]))
        return made
    made, rows = copy.deepcopy(_built[slug])
    with transaction.atomic():
        for row in rows:
            if row._meta.auto_created:
                row.pk = None  # a relation's, counted by the database: another world may have it
        for model in {type(row): None for row in rows}:
            model._default_manager.bulk_create(row for row in rows if type(row) is model)
        Revision.objects.update_or_create(pk=1, defaults={"seq": next(_revisions)})
        transaction.on_commit(revision.stamp.forget)
    return made


def _stored() -> list[Model]:
    models = django_apps.get_models(include_auto_created=True)
    ours = (model for model in models if model.__module__.startswith("apps."))
    return [row for model in ours if model is not Revision for row in model._default_manager.all()]


def _build(slug: str, name: str) -> World:
    """An organization: team `sre` (member of project `production`), team `leads` (its admin).

    `member` is in `sre`, `project_admin` in `leads`, `outsider` in no team.
    """
    org = orgs.organization_create(slug=slug, name=name, actor=SYSTEM)
    admin = person(org, "admin", role="admin")
    team = orgs.team_create(org, slug="sre", name="SRE", actor=admin)
    leads = orgs.team_create(org, slug="leads", name="Leads", actor=admin)
    project = orgs.project_create(org, slug="production", name="Production", actor=admin)
    other_project = orgs.project_create(org, slug="staging", name="Staging", actor=admin)
    grant = orgs.grant_set(team, project, actor=admin)
    orgs.grant_set(leads, project, role="admin", actor=admin)
    credential = credential_for(org, project, [team], admin)
    policy = policies.policy_save(org, document=document(team, credential), actor=admin).policy
    agent = agents.agent_create(org, team=team, slug="bot", name="Bot", actor=admin)
    return World(
        org=org,
        team=team,
        other_team=leads,
        project=project,
        other_project=other_project,
        grant=grant,
        admin=admin,
        auditor=person(org, "auditor", role="auditor"),
        member=person(org, "member", teams=[team]),
        project_admin=person(org, "lead", teams=[leads]),
        outsider=person(org, "outsider"),
        credential=credential,
        policy=policy,
        agent=agent,
        minted=agents.token_create(agent, name="CI", actor=admin),
    )


def person(
    org: Organization, name: str, *, role: str = "member", teams: list[Team] | None = None
) -> Actor:
    """A new person of the organization, as an actor."""
    email = f"{name}@{org.slug}.example"
    membership = orgs.user_invite(org, email=email, name=name, role=role, actor=SYSTEM)
    if teams:
        orgs.membership_update(membership, teams=teams, actor=SYSTEM)
    actor = actor_for(membership.user, org)
    assert actor is not None
    return actor


def credential_for(
    org: Organization, project: Project | None, teams: list[Team], actor: Actor
) -> Credential:
    """A GitHub token that may go to `api.github.com`."""
    return connections.credential_create(
        org,
        slug="github",
        name="GitHub",
        value=SECRET_VALUE,
        project=project,
        allowed_hosts=["api.github.com"],
        allowed_teams=teams,
        actor=actor,
    )


def document(team: Team, credential: Credential) -> PolicyDocument:
    """A team policy: GitHub with a credential, everything else denied; all tools."""
    return PolicyDocument(
        name="SRE policy",
        team=team,
        domains=(DomainRuleDoc("api.github.com"), DomainRuleDoc("*", "deny")),
        tools=(ToolRuleDoc("*"),),
        bindings=(BindingDoc(credential, "api.github.com"),),
    )
