"""`record()`: in the caller's transaction, bounded, without secrets."""

from __future__ import annotations

import uuid

import pytest
from django.db import transaction

from apps.audit.models import AuditEvent
from apps.audit.services import record
from apps.audit.types import SECRET
from apps.orgs.models import Organization
from apps.orgs.types import Actor, PrincipalKind

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def org() -> Organization:
    return Organization.objects.create(slug="acme", name="Acme Corp")


@pytest.fixture
def actor(org: Organization) -> Actor:
    return Actor(kind=PrincipalKind.USER, id=str(uuid.uuid4()), name="Ada", org_id=org.id)


def write(actor: Actor | None, **values: object) -> AuditEvent:
    defaults: dict[str, object] = {
        "org_id": actor.org_id if actor else None,
        "surface": "admin_change",
        "action": "audit.gap",
    }
    event = record(actor=actor, **(defaults | values))  # type: ignore[arg-type]  # bad values on purpose
    return AuditEvent.objects.get(pk=event.pk)


def test_names_the_actor_and_the_organization(actor: Actor, org: Organization) -> None:
    event = write(actor, resource_type="team", resource_id=uuid.UUID(int=7))
    assert (event.principal_kind, event.principal_name) == ("user", "Ada")
    assert event.org_id == org.id
    assert event.resource_id == str(uuid.UUID(int=7))
    assert event.result == "success"


def test_goes_away_with_the_change_that_it_tells_of(actor: Actor) -> None:
    with transaction.atomic():
        write(actor)
        transaction.set_rollback(True)
    assert not AuditEvent.objects.exists()


def test_secret_fields_are_only_said_to_have_changed(actor: Actor) -> None:
    event = write(
        actor,
        changes={"name": ("a", "b"), "value": ("hunter2", "hunter3"), "pin": SECRET},
        metadata={"api_key": "hunter4", "nested": {"password": "hunter5"}, "blob": b"hunter6"},
    )
    assert event.metadata["changes"] == {"name": ["a", "b"], "value": "changed", "pin": "changed"}
    assert "hunter" not in str(event.metadata)


def test_platform_tokens_are_masked_wherever_they_turn_up(actor: Actor) -> None:
    token = "lns_" + "Zz9-_" * 8 + "abc"
    event = write(actor, reason=f"tried {token}", metadata={"note": [token]}, resource_id=token)
    assert token not in f"{event.reason}{event.metadata}{event.resource_id}"
    assert event.reason == "tried lns_[masked]"


@pytest.mark.parametrize("hostile", ["a\x00b", "\ud800", "<script>", "\u202e", "x" * 100_000])
def test_hostile_text_is_stored_raw_but_bounded(actor: Actor, hostile: str) -> None:
    event = write(
        actor,
        reason=hostile,
        resource_id=hostile,
        metadata={hostile: hostile, "n": float("nan"), "big": 10**400},
        changes={"description": (hostile, None)},
    )
    assert len(event.reason) <= 4000
    assert len(event.resource_id) <= 500
    assert event.reason.startswith(hostile[:1].replace("\ud800", "\ufffd"))


def test_metadata_that_does_not_fit_says_what_is_missing(actor: Actor) -> None:
    event = write(actor, metadata={"small": 1, **{f"k{n}": "x" * 4000 for n in range(50)}})
    assert event.metadata["small"] == 1
    assert event.metadata["truncated"]
    assert len(str(event.metadata)) < 40_000


@pytest.mark.parametrize(
    "wrong", [{"surface": "moon"}, {"result": "maybe"}, {"action": "nobody.declared_this"}]
)
def test_words_that_do_not_exist_are_refused(actor: Actor, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        write(actor, **wrong)


def test_an_unknown_caller_leaves_the_principal_empty() -> None:
    event = write(None, surface="authentication", result="denied", reason="token_unknown")
    assert (event.org_id, event.principal_kind, event.principal_id) == (None, "", "")
