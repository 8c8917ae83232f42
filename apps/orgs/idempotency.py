"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header): a repeated request is done once.

Rules.
1. A key belongs to one principal of one organization, for 24 hours.
2. Who comes first claims the key in a transaction of its own, so that others see it at once: they
   are told that it is being worked on (409).
3. The answer is kept in the transaction of the change itself: either both are there or neither is.
   A refused request leaves no claim, so it may be corrected and sent again under the same key.
4. A claim whose worker died is taken over after a minute; should that worker still finish, its
   change is rolled back, since the claim is no longer its own.
5. The same key with another request is a mistake of the caller (422). Requests are compared by a
   keyed digest: bodies may hold secrets, which a plain hash would let somebody guess.
6. An answer that shows a secret once is kept without it. Its repetition is refused and names the
   object, so that the caller can delete that one and make another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils.crypto import salted_hmac

from apps.common import clock
from apps.common.errors import Conflict, Invalid, Mismatch
from apps.common.ids import token_hash
from apps.orgs.models import IdempotentRequest

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from apps.orgs.types import Actor

KEPT = timedelta(hours=24)
TAKEN_OVER_AFTER = timedelta(minutes=1)
MAX_CHARS = 255
# A Structured Field string (RFC 8941 section 3.3.3), or the same without quotes.
_KEY = re.compile(r'"[\x20\x21\x23-\x5b\x5d-\x7e]+"|[\x21\x23-\x5b\x5d-\x7e]+')
_SALT = "lensagents.idempotency"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer of before."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do the request."""

    row_id: uuid.UUID
    attempt: uuid.UUID

    def keep(self, status: int, headers: Mapping[str, str], body: str) -> None:
        """Keep the answer, in the transaction of the change; `body` is JSON, "" = none.

        Raises Conflict when the claim was lost.
        """
        if not self._mine().update(
            status=status, headers=dict(headers), body=body, updated_at=clock.now()
        ):
            raise Conflict("This request was taken over by a later attempt.", code="key_in_use")

    def release(self) -> None:
        """Nothing was changed: the key is free again."""
        self._mine().delete()

    def _mine(self) -> Any:
        return IdempotentRequest.objects.filter(
            pk=self.row_id, attempt=self.attempt, status__isnull=True
        )


def checked_key(header: str) -> str:
    """The key in its header; Invalid for what is none."""
    if not _KEY.fullmatch(header) or len(header) > MAX_CHARS:
        raise Invalid(
            f"1 to {MAX_CHARS} visible ASCII characters, for example a UUID.",
            field="Idempotency-Key",
        )
    return header.strip('"')


def fingerprint_of(*parts: bytes) -> str:
    """What makes two requests the same, as a keyed digest."""
    joined = b"".join(len(part).to_bytes(8) + part for part in parts)
    return salted_hmac(_SALT, joined, algorithm="sha256").hexdigest()


def claim(org_id: uuid.UUID, actor: Actor, key: str, fingerprint: str) -> Claim | Kept:
    """The key for this request, or the answer that it had. Mismatch or Conflict otherwise."""
    row = IdempotentRequest(
        org_id=org_id,
        principal_kind=str(actor.kind),
        principal_id=actor.id,
        key_hash=token_hash(key),
        fingerprint=fingerprint,
        expires_at=clock.now() + KEPT,
    )
    twins = IdempotentRequest.objects.filter(
        org=org_id,
        principal_kind=row.principal_kind,
        principal_id=row.principal_id,
        key_hash=row.key_hash,
    )
    twins.filter(expires_at__lte=clock.now()).delete()
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        found = twins.first()
        if found is None:  # it was released, or expired, this very moment
            raise _in_use() from None
        return _of_before(found, row)
    return Claim(row.pk, row.attempt)


def _of_before(found: IdempotentRequest, row: IdempotentRequest) -> Claim | Kept:
    if found.fingerprint != row.fingerprint:
        raise Mismatch(
            "This idempotency key was used for another request. Use a new key.", code="key_reused"
        )
    if found.status is None:
        return _taken_over(found, row)
    if not found.body and found.status == 201:
        raise Conflict(
            "It was made by an earlier request under this key, which showed its secret value. The "
            "value is not kept and cannot be shown again: delete the object and make another under "
            "a new key.",
            code="value_shown_once",
            resource=found.headers.get("Location", ""),
        )
    return Kept(found.status, found.headers, found.body)


def _taken_over(found: IdempotentRequest, row: IdempotentRequest) -> Claim:
    stale = IdempotentRequest.objects.filter(
        pk=found.pk,
        attempt=found.attempt,
        status__isnull=True,
        updated_at__lt=clock.now() - TAKEN_OVER_AFTER,
    )
    if not stale.update(attempt=row.attempt, updated_at=clock.now()):
        raise _in_use()
    return Claim(found.pk, row.attempt)


def _in_use() -> Conflict:
    return Conflict(
        "A request under this idempotency key is being worked on. Ask again shortly.",
        code="key_in_use",
        retryable=True,
    )
