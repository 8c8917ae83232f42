"""Agents and their tokens. A token's value is in the answer of `token_create` and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import transaction

from apps.agents.events import AgentAction
from apps.agents.models import Agent, AgentKind, AgentToken
from apps.common import clock, rows
from apps.common.errors import Conflict, Invalid
from apps.common.ids import token as new_token
from apps.common.ids import token_hash
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.selectors import live_teams
from apps.orgs.trail import created, note
from apps.orgs.types import PrincipalKind
from apps.policies.models import Policy

if TYPE_CHECKING:
    import datetime as dt

    from apps.orgs.models import Organization, Team
    from apps.orgs.types import Actor

TOKEN_PREFIX = "lns"  # noqa: S105  what every token starts with
HINT_CHARS = 8


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token; `value` is shown once and kept out of `repr`."""

    token: AgentToken
    value: str = field(repr=False)


@transaction.atomic
def agent_create(
    org: Organization,
    *,
    team: Team,
    slug: str,
    name: str,
    description: str = "",
    kind: str = AgentKind.EXTERNAL,
    actor: Actor,
) -> Agent:
    """A new agent of a team; it acts with its tokens."""
    require(actor, "agent.create", org)
    _check_team(org, team)
    agent = Agent(org=org, team=team, slug=slug, name=name, description=description, kind=kind)
    rows.insert(agent, taken=f"An agent with the slug “{slug}” exists. Choose another slug.")
    changes = created(agent, "slug", "name", "description", "kind")
    note(actor, AgentAction.AGENT_CREATE, agent, {**changes, "team": (None, team.slug)})
    revision.bump()
    return agent


@transaction.atomic
def agent_update(
    agent: Agent,
    *,
    name: str | None = None,
    description: str | None = None,
    team: Team | None = None,
    actor: Actor,
) -> Agent:
    """Change what is given; None keeps. In another team it has that team's policy at once."""
    require(actor, "agent.update", agent)
    agent = rows.locked(agent)
    if team is not None:
        _check_team(agent.org, team)
    changes = rows.update(agent, rows.given(name=name, description=description, team=team))
    if changes:
        note(actor, AgentAction.AGENT_UPDATE, agent, changes)
        revision.bump()
    return agent


@transaction.atomic
def agent_disable(agent: Agent, *, actor: Actor) -> Agent:
    """The kill switch: its tokens stop at once, and what it has open is cut."""
    require(actor, "agent.update", agent)
    agent = rows.locked(agent)
    if agent.disabled_at is None:
        changes = rows.update(agent, {"disabled_at": clock.now()})
        note(actor, AgentAction.AGENT_DISABLE, agent, changes)
        revision.bump()
    return agent


@transaction.atomic
def agent_enable(agent: Agent, *, actor: Actor) -> Agent:
    """Undo `agent_disable`."""
    require(actor, "agent.update", agent)
    agent = rows.locked(agent)
    if agent.disabled_at is not None:
        changes = rows.update(agent, {"disabled_at": None})
        note(actor, AgentAction.AGENT_ENABLE, agent, changes)
        revision.bump()
    return agent


@transaction.atomic
def agent_delete(agent: Agent, *, actor: Actor) -> None:
    """Delete it with its tokens and its own policy; the audit trail keeps its name."""
    require(actor, "agent.delete", agent)
    agent = rows.locked(agent)
    tokens = agent.tokens.count()
    note(actor, AgentAction.AGENT_DELETE, agent, {"slug": (agent.slug, None)}, tokens_gone=tokens)
    Policy.objects.filter(agent=agent).delete()
    agent.delete()
    revision.bump()


@transaction.atomic
def token_create(
    agent: Agent, *, name: str, expires_at: dt.datetime | None = None, actor: Actor
) -> Minted:
    """Mint `lns_…` for the agent. `expires_at` is aware; None = until it is revoked."""
    require(actor, "token.create", agent)
    agent = rows.locked(agent)
    _check_mintable(agent, actor)
    _check_expiry(expires_at)
    value = new_token(TOKEN_PREFIX)
    token = AgentToken(
        org_id=agent.org_id,
        agent=agent,
        name=name,
        token_hash=token_hash(value),
        hint=value[:HINT_CHARS],
        expires_at=expires_at,
    )
    rows.insert(token, taken="Try again.")
    changes = {**created(token, "name", "hint", "expires_at"), "agent": (None, agent.slug)}
    note(actor, AgentAction.TOKEN_CREATE, token, changes)
    revision.bump()
    return Minted(token, value)


@transaction.atomic
def token_revoke(token: AgentToken, *, actor: Actor) -> AgentToken:
    """The token stops at once and for ever."""
    require(actor, "token.delete", token)
    token = rows.locked(token)
    if token.revoked_at is None:
        changes = rows.update(token, {"revoked_at": clock.now()})
        note(actor, AgentAction.TOKEN_REVOKE, token, changes, agent=token.agent.slug)
        revision.bump()
    return token


def _check_team(org: Organization, team: Team) -> None:
    if not live_teams(org.pk).filter(pk=team.pk).exists():
        raise Invalid("There is no such team in this organization.", field="team")


def _check_expiry(at: dt.datetime | None) -> None:
    if at is not None and at.tzinfo is None:
        raise Invalid("The expiry has no time zone. Add one.", field="expires_at")
    if at is not None and at <= clock.now():
        raise Invalid("The expiry lies in the past. Choose a later time.", field="expires_at")


def _check_mintable(agent: Agent, actor: Actor) -> None:
    if agent.kind == AgentKind.MANAGED and actor.kind is not PrincipalKind.SYSTEM:
        raise Conflict("The platform itself provides the tokens of a managed agent.")
    if agent.disabled_at is not None:
        raise Conflict("The agent is disabled. Enable it first.")
    if agent.team.deleted_at is not None:
        raise Conflict("The agent's team is deleted. Move the agent to another team first.")
