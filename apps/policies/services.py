"""Writes of policies: a document is saved whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q

from apps.common import rows
from apps.common.errors import Conflict, Invalid, NotFound
from apps.connections.models import Credential
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.trail import note
from apps.policies.checks import check_document, layer_of
from apps.policies.compiler import layer_from, platform_hosts
from apps.policies.core.moot import moot_rules
from apps.policies.documents import document_of, outline
from apps.policies.events import PolicyAction
from apps.policies.models import (
    CredentialBinding,
    DomainRule,
    HttpRule,
    Policy,
    PolicyKind,
    ToolRule,
)

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    from apps.common.tenancy import Row, TenantRow
    from apps.orgs.models import Organization
    from apps.orgs.types import Actor
    from apps.policies.documents import PolicyDocument

    RowType = TypeVar("RowType", bound=TenantRow)


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved policy, and sentences on rules that have no effect."""

    policy: Policy
    warnings: tuple[str, ...]


@transaction.atomic
def policy_save(
    org: Organization, *, document: PolicyDocument, policy: Policy | None = None, actor: Actor
) -> Saved:
    """Save the whole document, as a new policy or over `policy`.

    Invalid names the field; Conflict when someone saved in between (compare `document.version`).
    """
    if policy is None:
        require(actor, "policy.create", org)
        return _create(org, document, actor)
    require(actor, "policy.update", policy)
    if policy.org_id != org.pk:
        raise NotFound("Not found.")
    seen = replace(document, version=_seen(document, policy))
    return _update(org, rows.locked(policy), seen, actor)


@transaction.atomic
def policy_delete(policy: Policy, *, actor: Actor) -> None:
    """Delete it. A team without a policy may do nothing."""
    require(actor, "policy.delete", policy)
    policy = rows.locked(policy)
    before = outline(document_of(policy))
    note(actor, PolicyAction.DELETE, policy, {key: (old, None) for key, old in before.items()})
    policy.delete()
    revision.bump()


def _create(org: Organization, document: PolicyDocument, actor: Actor) -> Saved:
    _check_subject(org, document)
    document = _with_locked_credentials(org, document)
    check_document(document)
    subject = {"kind": document.kind, "team": document.team, "agent": document.agent}
    policy = Policy(org=org, **subject, **_columns(document))
    rows.insert(policy, taken=_taken(document))
    _write_rules(policy, document)
    after = outline(document)
    note(actor, PolicyAction.CREATE, policy, {key: (None, new) for key, new in after.items()})
    revision.bump()
    return Saved(policy, _warnings(org, document))


def _update(org: Organization, policy: Policy, document: PolicyDocument, actor: Actor) -> Saved:
    team_id = document.team and document.team.pk
    agent_id = document.agent and document.agent.pk
    subject = (document.kind, team_id, agent_id)
    if subject != (policy.kind, policy.team_id, policy.agent_id):
        raise Invalid("A policy stays with its team or agent. Write a new one.", field="kind")
    if document.version != policy.version:
        raise Conflict(
            f"Someone saved version {policy.version} while you edited version {document.version}. "
            "Reload the policy and make your change again."
        )
    document = _with_locked_credentials(org, document)
    check_document(document)
    before, after = outline(document_of(policy)), outline(document)
    changes = {key: (before[key], after[key]) for key in after if before[key] != after[key]}
    if changes:
        rows.update(policy, {**_columns(document), "version": policy.version + 1})
        _write_rules(policy, document)
        note(actor, PolicyAction.UPDATE, policy, changes, version=policy.version)
        revision.bump()
    return Saved(policy, _warnings(org, document))


def _seen(document: PolicyDocument, policy: Policy) -> int:
    """The version that the editor saw: the document's, else that of the row in hand."""
    return policy.version if document.version is None else document.version


def _columns(document: PolicyDocument) -> dict[str, Any]:
    return {
        "name": document.name,
        "description": document.description,
        "has_domains": document.has_domains,
        "has_tools": document.has_tools,
    }


def _check_subject(org: Organization, document: PolicyDocument) -> None:
    """Team and agent fit the kind and belong to the organization."""
    subjects = {PolicyKind.TEAM: document.team, PolicyKind.AGENT: document.agent}
    for kind, row in subjects.items():
        if (row is not None) != (document.kind == kind):
            wanted = f"needs its {kind}" if row is None else f"has no {kind}"
            raise Invalid(f"A policy of kind {document.kind} {wanted}.", field=kind)
        if row is not None:
            _lock_subject(org, kind, row)
    ceilings = Policy.objects.filter(org=org, kind=PolicyKind.CEILING)
    if document.kind == PolicyKind.CEILING and ceilings.exists():
        raise Conflict(_taken(document))


def _lock_subject(org: Organization, kind: str, row: Row) -> None:
    """The team or agent, locked: it shall not go while its policy comes."""
    try:
        found: Any = rows.locked(row)
    except NotFound:
        found = None
    if found is None or found.org_id != org.pk or getattr(found, "deleted_at", None):
        raise Invalid(f"There is no such {kind} in this organization.", field=kind)


def _with_locked_credentials(org: Organization, document: PolicyDocument) -> PolicyDocument:
    """The document with its credentials as they are now, locked in a fixed order."""
    wanted = {binding.credential.pk for binding in document.bindings}
    held = Credential.objects.select_for_update(of=("self",), no_key=True).order_by("pk")
    found = {row.pk: row for row in held.filter(org=org, pk__in=wanted)}
    for index, binding in enumerate(document.bindings):
        if binding.credential.pk not in found:
            raise Invalid("There is no such credential.", field=f"bindings[{index}].credential")
    bindings = tuple(
        replace(binding, credential=found[binding.credential.pk]) for binding in document.bindings
    )
    return replace(document, bindings=bindings)


def _taken(document: PolicyDocument) -> str:
    if document.kind == PolicyKind.CEILING:
        return "The organization has a ceiling already. Edit that one."
    return f"{document.team or document.agent} has a policy already. Edit that one."


def _write_rules(policy: Policy, document: PolicyDocument) -> None:
    """Replace the rules. A rule that says whose it was keeps its id."""
    kept = _Ids(policy)
    for owned in (policy.domain_rules, policy.tool_rules, policy.bindings):
        owned.all().delete()
    domains, https = _domain_rows(policy, document, kept)
    _insert(DomainRule, domains)
    _insert(HttpRule, https)
    _insert(ToolRule, _tool_rows(policy, document, kept))
    _insert(CredentialBinding, _binding_rows(policy, document, kept))


class _Ids:
    """The ids of a policy's rules, each to be given out once; anything else gets a new id."""

    def __init__(self, policy: Policy) -> None:
        self._free: set[uuid.UUID] = {
            *policy.domain_rules.values_list("pk", flat=True),
            *policy.tool_rules.values_list("pk", flat=True),
            *policy.bindings.values_list("pk", flat=True),
            *HttpRule.objects.filter(domain_rule__policy=policy).values_list("pk", flat=True),
        }

    def take(self, wanted: uuid.UUID | None) -> dict[str, uuid.UUID]:
        """The `id` argument of the new row, or none."""
        if wanted not in self._free:
            return {}
        self._free.remove(wanted)
        return {"id": wanted}


def _domain_rows(
    policy: Policy, document: PolicyDocument, kept: _Ids
) -> tuple[dict[str, DomainRule], dict[str, HttpRule]]:
    domains: dict[str, DomainRule] = {}
    https: dict[str, HttpRule] = {}
    for index, rule in enumerate(document.domains):
        at = f"domains[{index}]"
        domains[at] = DomainRule(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            pattern=rule.pattern,
            action=rule.action,
            agent_credentials=rule.agent_credentials,
            **kept.take(rule.id),
        )
        for number, http in enumerate(rule.http):
            https[f"{at}.http[{number}]"] = HttpRule(
                org_id=policy.org_id,
                domain_rule=domains[at],
                position=number,
                method=http.method,
                path=http.path,
                action=http.action,
                **kept.take(http.id),
            )
    return domains, https


def _tool_rows(policy: Policy, document: PolicyDocument, kept: _Ids) -> dict[str, ToolRule]:
    return {
        f"tools[{index}]": ToolRule(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            pattern=rule.pattern,
            action=rule.action,
            **kept.take(rule.id),
        )
        for index, rule in enumerate(document.tools)
    }


def _binding_rows(
    policy: Policy, document: PolicyDocument, kept: _Ids
) -> dict[str, CredentialBinding]:
    return {
        f"bindings[{index}]": CredentialBinding(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            credential=binding.credential,
            pattern=binding.pattern,
            method=binding.method,
            path=binding.path,
            injection=binding.injection,
            header=binding.header,
            template=binding.template,
            parameter=binding.parameter,
            env_name=binding.env_name,
            **kept.take(binding.id),
        )
        for index, binding in enumerate(document.bindings)
    }


def _insert(model: type[RowType], found: dict[str, RowType]) -> None:
    """Check what the columns demand (lengths, choices), then insert; keys are field paths."""
    for at, row in found.items():
        try:
            row.clean_fields(exclude=_RELATIONS)
        except ValidationError as error:
            field, messages = next(iter(error.message_dict.items()))
            raise Invalid(messages[0], field=f"{at}.{field}") from error
    model._default_manager.bulk_create(found.values())  # noqa: SLF001  Django's documented name


_RELATIONS = {"org", "policy", "domain_rule", "credential"}


def _warnings(org: Organization, document: PolicyDocument) -> tuple[str, ...]:
    """Rules of this document that a layer above makes moot; for a ceiling, of those below."""
    saved = layer_of(document)
    hosts = platform_hosts()
    if document.kind == PolicyKind.CEILING:
        below = Policy.objects.filter(org=org, kind=PolicyKind.TEAM)
        return tuple(
            f"{policy}: {moot.message}"
            for policy in below
            for moot in moot_rules([saved, layer_from(policy)], hosts)
            if moot.layer != saved.id
        )
    chain = [*map(layer_from, _above(org, document)), saved]
    return tuple(moot.message for moot in moot_rules(chain, hosts) if moot.layer == saved.id)


def _above(org: Organization, document: PolicyDocument) -> Iterable[Policy]:
    """The ceiling, and above an agent policy also its team's."""
    above = Q(kind=PolicyKind.CEILING)
    if document.kind == PolicyKind.AGENT:
        above |= Q(kind=PolicyKind.TEAM, team=document.agent.team_id)
    return Policy.objects.filter(above, org=org)
