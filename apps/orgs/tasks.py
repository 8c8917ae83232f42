"""What beat does for this app."""

from __future__ import annotations

from django.contrib.sessions.models import Session

from apps.common import clock
from apps.common.tenancy import system
from apps.jobs.periodic import every
from apps.orgs.models import IdempotentRequest
from apps.orgs.services.sessions import sessions_forget
from apps.orgs.sweeps import memberships_expire

HOUR = 3600


@every(HOUR, name="orgs.clear_sessions")
@system("sessions that have ended")
def clear_sessions() -> None:
    """Delete sessions that have ended: each visit to the sign-in leaves one."""
    Session.objects.filter(expire_date__lt=clock.now()).delete()
    sessions_forget()


@every(HOUR, name="orgs.expire_memberships")
@system("memberships that have ended")
def expire_memberships() -> None:
    """What was given by hand ends; it counted for nothing since its end already."""
    memberships_expire()


@every(HOUR, name="orgs.forget_idempotency_keys")
@system("idempotency keys that have ended")
def forget_idempotency_keys() -> None:
    """Delete what was kept under idempotency keys that have ended, of every organization."""
    IdempotentRequest.objects.filter(expires_at__lte=clock.now()).delete()
