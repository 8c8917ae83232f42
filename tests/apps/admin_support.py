"""Signed-in browsers for the tests of the admin."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.test import Client
from django.urls import reverse

from apps.common import clock
from apps.orgs.models import IdentityProvider, Organization, User, UserSession
from apps.orgs.session import ROW, STARTED

if TYPE_CHECKING:
    from apps.orgs.types import Actor

ISSUER = "https://idp.example"


def browser(actor: Actor) -> Client:
    """A browser in which this person is signed in and works in this organization."""
    client = Client()
    client.force_login(User.objects.get(pk=actor.id))
    assert actor.org_id is not None
    org = Organization.objects.get(pk=actor.org_id)
    idp, _ = IdentityProvider.objects.get_or_create(
        org=org,
        issuer=ISSUER,
        defaults={"name": "IdP", "client_id": "lens", "working_at": clock.now()},
    )
    row = UserSession.objects.create(
        org=org,
        idp=idp,
        user_id=uuid.UUID(actor.id),
        subject=actor.id,
        expires_at=clock.now() + dt.timedelta(hours=1),
    )
    session = client.session
    session.update({STARTED: int(time.time()), ROW: str(row.pk)})
    session.save()
    return client


def url(model: type[Any], view: str, *args: Any) -> str:
    """The address of an admin view."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}", args=args)


def form_data(response: Any) -> dict[str, Any]:
    """What a browser would post back unchanged: every form and formset on the page."""
    context = response.context
    data: dict[str, Any] = {}
    form = context["adminform"].form
    for bound in form:
        put(data, bound)
    for inline in context["inline_admin_formsets"]:
        for bound in inline.formset.management_form:
            put(data, bound)
        for row in inline.formset.forms:
            for bound in row:
                put(data, bound)
    return data


def put(data: dict[str, Any], bound: Any) -> None:
    """One field, as its widget would post it."""
    value = bound.value()
    if value is None or value is False or bound.field.disabled:
        return
    if isinstance(value, (list, tuple)):
        data[bound.html_name] = [str(getattr(item, "pk", item)) for item in value]
    elif value is True:
        data[bound.html_name] = "on"
    else:
        data[bound.html_name] = str(getattr(value, "pk", value))


def registered() -> list[Any]:
    """Every model admin of the site."""
    return list(admin.site._registry.values())


def errors(response: Any) -> dict[str, list[str]]:
    """The errors of the main form of a page that was refused."""
    assert response.status_code == 200, response.status_code
    return dict(response.context["adminform"].form.errors)
