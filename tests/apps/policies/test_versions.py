"""Versions: each save keeps one, they never change, two are compared, an old one comes back."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, Denied, Invalid, NotFound
from apps.common.tenancy import scope
from apps.connections import services as connections
from apps.orgs.revision import read_seq
from apps.policies.documents import DomainRuleDoc, PolicyDocument, document_of
from apps.policies.documents_io import to_obj
from apps.policies.models import Policy, PolicyVersion
from apps.policies.services import policy_apply, policy_delete, policy_rollback, policy_save
from apps.policies.versions import policy_diff, versions_of
from tests import factories
from tests.apps.policies.support import counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def save(world: World, *hosts: str, reason: str = "") -> Policy:
    """Save the team's policy with these hosts and without a binding."""
    policy = Policy.objects.get(pk=world.policy.pk)
    document = replace(document_of(policy), domains=tuple(map(DomainRuleDoc, hosts)), bindings=())
    return policy_save(
        world.org, document=document, policy=policy, actor=world.admin, reason=reason
    ).policy


class TestKept:
    def test_each_save_keeps_one_with_author_and_reason(self, acme: World) -> None:
        policy = save(acme, "a.example.com", reason="  Asked for\nby the team. ")
        first, second = versions_of(policy, actor=acme.auditor).order_by("number")
        assert (first.number, second.number) == (1, 2)
        assert second.document == to_obj(document_of(policy), ids=True)
        assert (second.author_name, second.reason) == (acme.admin.name, "Asked for by the team.")
        event = AuditEvent.objects.get(action="policy.update")
        assert (event.metadata["reason"], event.metadata["widens"]) == (second.reason, True)

    def test_a_save_without_a_change_keeps_none(self, acme: World) -> None:
        before = counts(), PolicyVersion.objects.count()
        policy = Policy.objects.get(pk=acme.policy.pk)
        policy_save(acme.org, document=document_of(policy), policy=policy, actor=acme.admin)
        assert (counts(), PolicyVersion.objects.count()) == before

    def test_they_never_change(self, acme: World) -> None:
        version = PolicyVersion.objects.get(policy=acme.policy)
        version.reason = "Another."
        with pytest.raises(TypeError, match="never changed"):
            version.save()

    def test_they_go_with_their_policy(self, acme: World) -> None:
        policy_delete(acme.policy, actor=acme.admin)
        assert not PolicyVersion.objects.filter(org=acme.org).exists()

    def test_a_policy_older_than_versions_keeps_what_it_was(self, acme: World) -> None:
        PolicyVersion.objects.all().delete()
        policy = save(acme, "a.example.com")
        numbers = [row.number for row in versions_of(policy, actor=acme.admin)]
        assert numbers == [2, 1]
        before = policy_diff(policy, old=1, new=2, actor=acme.admin)
        assert "-  api.github.com allow" in before.text

    def test_a_long_or_hidden_reason_is_refused(self, acme: World) -> None:
        for reason in ("x" * 501, "a\0b", "a\u202eb"):
            before = counts()
            with pytest.raises(Invalid) as refused:
                save(acme, "a.example.com", reason=reason)
            assert refused.value.field == "reason"
            assert counts() == before


class TestDiff:
    def test_structured_and_as_text(self, acme: World) -> None:
        policy = save(acme, "api.github.com", "a.example.com")
        found = policy_diff(policy, old=1, new=2, actor=acme.member)
        assert [(one.op, one.path) for one in found.changes] == [
            ("removed", "domains[1]"),
            ("added", "domains[1]"),
            ("removed", "bindings[0]"),
        ]
        assert found.text.splitlines()[:2] == ["--- version 1", "+++ version 2"]
        assert "+  a.example.com allow" in found.text

    def test_with_a_document_in_hand(self, acme: World) -> None:
        plain = to_obj(document_of(acme.policy))
        assert policy_diff(acme.policy, new=plain, actor=acme.admin).changes == ()
        plain["tools"] = []
        (change,) = policy_diff(acme.policy, new=plain, actor=acme.admin).changes
        assert (change.section, change.op) == ("tools", "removed")

    def test_strangers_and_absent_versions(self, acme: World) -> None:
        stranger = factories.globex()
        for actor in (stranger.admin, acme.outsider):
            with pytest.raises(NotFound):
                policy_diff(acme.policy, old=1, actor=actor)
            with pytest.raises(NotFound):
                versions_of(acme.policy, actor=actor)
        with pytest.raises(NotFound, match="no such version"):
            policy_diff(acme.policy, old=9, actor=acme.admin)


class TestRollback:
    def test_an_old_version_comes_back_as_the_newest(self, acme: World) -> None:
        old = document_of(acme.policy)
        policy = save(acme, "a.example.com")
        seq = read_seq()
        saved = policy_rollback(policy, number=1, actor=acme.admin, reason="It broke.")
        assert replace(document_of(saved.policy), version=1) == old
        newest = PolicyVersion.objects.get(policy=policy, number=3)
        assert (newest.restored_from, newest.reason) == (1, "It broke.")
        event = AuditEvent.objects.get(action="policy.rollback")
        assert (event.metadata["restored_from"], event.metadata["version"]) == (1, 3)
        assert set(event.metadata["changes"]) == {"domains", "bindings"}
        assert read_seq() == seq + 1

    def test_what_it_names_must_still_be_there(self, acme: World) -> None:
        policy = save(acme, "a.example.com")
        connections.credential_delete(acme.credential, actor=acme.admin)
        before = counts()
        with pytest.raises(Invalid, match="no credential “github”") as refused:
            policy_rollback(policy, number=1, actor=acme.admin)
        assert refused.value.field == "bindings[0].credential"
        assert counts() == before

    def test_it_is_checked_as_any_other_save(self, acme: World) -> None:
        policy = save(acme, "a.example.com")
        connections.credential_update(acme.credential, allowed_teams=[], actor=acme.admin)
        with pytest.raises(Invalid, match="does not allow this team"):
            policy_rollback(policy, number=1, actor=acme.admin)

    def test_somebody_else_saved_in_between(self, acme: World) -> None:
        stale = save(acme, "a.example.com")
        save(acme, "b.example.com")
        before = counts()
        with pytest.raises(Conflict, match="version 3 while you edited version 2"):
            policy_rollback(stale, number=1, actor=acme.admin)
        with pytest.raises(Conflict):
            policy_rollback(stale, number=1, version=2, actor=acme.admin)
        assert counts() == before

    def test_of_another_policy_and_by_others(self, acme: World) -> None:
        policy = save(acme, "a.example.com")
        with pytest.raises(NotFound):
            policy_rollback(policy, number=7, actor=acme.admin)
        with pytest.raises(Denied):
            policy_rollback(policy, number=1, actor=acme.member)
        with pytest.raises(NotFound):
            policy_rollback(policy, number=1, actor=factories.globex().admin)


class TestApply:
    PLAIN = {
        "kind": "team",
        "team": "leads",
        "name": "Leads",
        "tools": [{"pattern": "*", "action": "allow"}],
    }

    def test_it_creates_and_then_replaces(self, acme: World) -> None:
        first = policy_apply(acme.org, document=self.PLAIN, version=0, actor=acme.admin).policy
        ids = [rule.id for rule in document_of(first).tools]
        plain = {**self.PLAIN, "name": "New", "domains": []}
        second = policy_apply(acme.org, document=plain, version=1, actor=acme.admin).policy
        assert (second.pk, second.version, second.name) == (first.pk, 2, "New")
        assert [rule.id for rule in document_of(second).tools] == ids
        again = policy_apply(acme.org, document=plain, actor=acme.admin).policy
        assert again.version == 2

    @pytest.mark.parametrize("seen", [0, 2, 7])
    def test_another_version_than_the_caller_saw(self, seen: int, acme: World) -> None:
        policy_apply(acme.org, document=self.PLAIN, actor=acme.admin)
        before = counts()
        with pytest.raises(Conflict):
            policy_apply(
                acme.org, document={**self.PLAIN, "name": "X"}, version=seen, actor=acme.admin
            )
        assert counts() == before

    def test_a_document_that_cannot_be_saved_changes_nothing(self, acme: World) -> None:
        before = counts()
        with pytest.raises(Invalid) as refused:
            policy_apply(
                acme.org,
                document={**self.PLAIN, "domains": [{"pattern": "b c", "action": "allow"}]},
                actor=acme.admin,
            )
        assert refused.value.field == "domains[0].pattern"
        assert counts() == before

    def test_a_ceiling(self, acme: World) -> None:
        plain = to_obj(PolicyDocument("C", kind="ceiling", domains=(DomainRuleDoc("*"),)))
        saved = policy_apply(acme.org, document=plain, actor=acme.admin)
        assert saved.policy.kind == "ceiling"


@pytest.mark.django_db(transaction=True)
def test_of_a_save_an_apply_and_a_rollback_at_once_one_wins() -> None:
    """Who comes second is told, and nothing of theirs is written."""
    acme = factories.acme()
    policy = save(acme, "a.example.com")
    seen = document_of(policy)
    plain = to_obj(replace(seen, domains=(DomainRuleDoc("applied.example.com"),)))
    saved = replace(seen, domains=(DomainRuleDoc("saved.example.com"),))
    works: list[Callable[[], object]] = [
        lambda: policy_save(acme.org, document=saved, policy=policy, actor=acme.admin),
        lambda: policy_apply(acme.org, document=plain, version=2, actor=acme.admin),
        lambda: policy_rollback(policy, number=1, version=2, actor=acme.admin),
    ]
    told: list[object] = []

    def run(work: Callable[[], object]) -> None:
        try:
            with scope(acme.org.pk):
                work()
            told.append(None)
        except Conflict as conflict:
            told.append(conflict)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(told) == 3
    assert told.count(None) == 1
    policy.refresh_from_db()
    newest = PolicyVersion.objects.filter(policy=policy).order_by("-number")
    assert [row.number for row in newest] == [3, 2, 1]
    assert newest[0].document == to_obj(document_of(policy), ids=True)
