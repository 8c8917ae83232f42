"""Writes of policies: a document is saved whole or not at all, and kept as a version.

Every way to save (the form, a document that is applied, an old version that comes back) ends in
`_create` or `_update`, so all of them are checked, tested, audited and kept alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import transaction

from apps.common import rows
from apps.common.errors import Conflict, Invalid, NotFound
from apps.connections.models import Credential
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.trail import note
from apps.orgs.types import SYSTEM
from apps.policies.checks import check_document
from apps.policies.documents import document_of, ids_of, outline
from apps.policies.documents_io import from_obj, to_obj, with_ids
from apps.policies.events import PolicyAction
from apps.policies.models import Policy, PolicyKind, PolicyVersion
from apps.policies.review import review
from apps.policies.services.rules import write_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.common.tenancy import Row
    from apps.orgs.models import Organization
    from apps.orgs.types import Actor
    from apps.policies.documents import PolicyDocument
    from apps.policies.review import Review

MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved policy, and sentences on rules that have no effect and tests that fail."""

    policy: Policy
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Save:
    """What goes with a save: who, why, and which version a rollback brought back."""

    actor: Actor
    reason: str = ""
    restored: int | None = None


@transaction.atomic
def policy_save(
    org: Organization,
    *,
    document: PolicyDocument,
    policy: Policy | None = None,
    actor: Actor,
    reason: str = "",
) -> Saved:
    """Save the whole document, as a new policy or over `policy`.

    Invalid names the field; Conflict when someone saved in between (compare `document.version`),
    or when policy tests fail and the document lets more through than before. With failing tests a
    document that only takes away needs a `reason`.
    """
    if policy is None:
        require(actor, "policy.create", org)
        return _create(org, document, _Save(actor, _reason(reason)))
    require(actor, "policy.update", policy)
    if policy.org_id != org.pk:
        raise NotFound("Not found.")
    seen = replace(document, version=_seen(document, policy))
    return _update(org, rows.locked(policy), seen, _Save(actor, _reason(reason)))


@transaction.atomic
def policy_apply(
    org: Organization,
    *,
    document: Mapping[str, Any],
    actor: Actor,
    reason: str = "",
    version: int | None = None,
) -> Saved:
    """Make the policy of that kind, team or agent what the plain document says; create it if new.

    `version` is the one that the caller saw (0: there was none); None = whatever is there now.
    """
    require(actor, "policy.create", org)
    read = from_obj(org, document)
    policy = _present(org, read)
    if version is not None and version != (policy.version if policy else 0):
        raise Conflict(_changed(policy.version if policy else 0, version))
    if policy is None:
        return _create(org, read, _Save(actor, _reason(reason)))
    require(actor, "policy.update", policy)
    kept = replace(with_ids(read, document_of(policy)), version=policy.version)
    return _update(org, policy, kept, _Save(actor, _reason(reason)))


@transaction.atomic
def policy_rollback(
    policy: Policy, *, number: int, actor: Actor, reason: str = "", version: int | None = None
) -> Saved:
    """Save an old version again, as the newest. What it names must still be there.

    `version` is the one that the caller saw; None = that of the row in hand.
    """
    require(actor, "policy.update", policy)
    seen = policy.version if version is None else version
    policy = rows.locked(policy)
    found = PolicyVersion.objects.filter(org=policy.org_id, policy=policy, number=number).first()
    if found is None:
        raise NotFound("There is no such version.")
    document = replace(from_obj(policy.org, found.document), version=seen)
    return _update(policy.org, policy, document, _Save(actor, _reason(reason), number))


@transaction.atomic
def policy_delete(policy: Policy, *, actor: Actor) -> None:
    """Delete it, with its versions. A team without a policy may do nothing."""
    require(actor, "policy.delete", policy)
    policy = rows.locked(policy)
    before = outline(document_of(policy))
    note(actor, PolicyAction.DELETE, policy, {key: (old, None) for key, old in before.items()})
    policy.delete()
    revision.bump()


def _create(org: Organization, document: PolicyDocument, save: _Save) -> Saved:
    _check_subject(org, document)
    document = _with_locked_credentials(org, document)
    found = _reviewed(org, document, None, save.reason)
    subject = {"kind": document.kind, "team": document.team, "agent": document.agent}
    policy = Policy(org=org, **subject, **_columns(document))
    rows.insert(policy, taken=_taken(document))
    write_rules(policy, document)
    _keep(policy, save)
    after = outline(document)
    changes = {key: (None, new) for key, new in after.items()}
    note(save.actor, PolicyAction.CREATE, policy, changes, **_told(found, save))
    revision.bump()
    return Saved(policy, found.sentences)


def _update(org: Organization, policy: Policy, document: PolicyDocument, save: _Save) -> Saved:
    team_id = document.team and document.team.pk
    agent_id = document.agent and document.agent.pk
    subject = (document.kind, team_id, agent_id)
    if subject != (policy.kind, policy.team_id, policy.agent_id):
        raise Invalid("A policy stays with its team or agent. Write a new one.", field="kind")
    if document.version != policy.version:
        raise Conflict(_changed(policy.version, document.version))
    document = _with_locked_credentials(org, document)
    saved = document_of(policy)
    found = _reviewed(org, document, saved, save.reason)
    before, after = outline(saved), outline(document)
    changes = {key: (before[key], after[key]) for key in after if before[key] != after[key]}
    if to_obj(saved) != to_obj(document):  # not `changes`: lines are for people
        _keep_first(policy)
        rows.update(policy, {**_columns(document), "version": policy.version + 1})
        write_rules(policy, document, ids_of(document) if save.restored else frozenset())
        _keep(policy, save)
        action = PolicyAction.UPDATE if save.restored is None else PolicyAction.ROLLBACK
        told = _told(found, save)
        note(save.actor, action, policy, changes, version=policy.version, **told)
        revision.bump()
    return Saved(policy, found.sentences)


def _reviewed(
    org: Organization, document: PolicyDocument, before: PolicyDocument | None, reason: str
) -> Review:
    """The review of a document that may be saved; raises otherwise."""
    check_document(document)
    found = review(org, document, before)
    found.require_saveable(reason)
    return found


def _told(found: Review, save: _Save) -> dict[str, object]:
    """What the audit event says besides the changes."""
    told: dict[str, object] = {"widens": bool(found.widens)}
    if save.reason:
        told["reason"] = save.reason
    if save.restored is not None:
        told["restored_from"] = save.restored
    if found.failing:
        told["failing_tests"] = [test.line for test in found.failing]
    return told


def _keep(policy: Policy, save: _Save) -> None:
    """Keep the document that was just written as a version."""
    rows.insert(
        PolicyVersion(
            org_id=policy.org_id,
            policy=policy,
            number=policy.version,
            document=to_obj(document_of(policy), ids=True),
            author_kind=str(save.actor.kind),
            author_id=save.actor.id,
            author_name=save.actor.name,
            reason=save.reason,
            restored_from=save.restored,
        ),
        taken="Someone saved this policy at the same moment. Look again and repeat.",
    )


def _keep_first(policy: Policy) -> None:
    """Keep a document from before there were versions: the next save would lose it."""
    if not PolicyVersion.objects.filter(policy=policy, number=policy.version).exists():
        _keep(policy, _Save(SYSTEM, "As it was when versions began to be kept."))


def _present(org: Organization, document: PolicyDocument) -> Policy | None:
    """The policy of this kind, team or agent as it is now, locked."""
    found = Policy.objects.filter(
        org=org, kind=document.kind, team=document.team, agent=document.agent
    ).first()
    return rows.locked(found) if found else None


def _reason(reason: str) -> str:
    text = " ".join(reason.split())
    if not text.isprintable():
        raise Invalid("Write the reason in letters that can be seen.", field="reason")
    if len(text) > MAX_REASON:
        raise Invalid(f"At most {MAX_REASON} characters.", field="reason")
    return text


def _changed(now: int, seen: int | None) -> str:
    return (
        f"Someone saved version {now} while you edited version {seen}. "
        "Reload the policy and make your change again."
    )


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
