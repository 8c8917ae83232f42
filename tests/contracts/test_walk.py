"""Every route of the installation, with every method, as everybody who has no business there.

The routes come from Django's own URLconf, the objects from what the admin's registry and the REST
API's cases name. A new route without an address here fails the first test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from apps.common.admin_scope import OrgScoped
from apps.common.ids import token, token_hash
from apps.orgs.models import IdentityProvider, User
from tests import factories
from tests.apps.admin_support import browser, registered, url
from tests.apps.api_support import API
from tests.apps.common.test_admin import furnished, pages, rows_of
from tests.contracts.api_cases import CASES, invitation_of, sandbox_of
from tests.contracts.test_services import everything

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
FORM = {"post": "yes", "_save": "Save", "name": "taken over", "action": "delete_selected"}
# Who may know that an organization exists, and how it signs in, is everybody who has the link.
PUBLIC = {"login_organization", "oidc_start"}
# What a request of anybody may leave: a session of its own, counters, the time of a sign-in.
VOLATILE = ("AuditEvent", "Revision", "UserSession", "Session")


def routes(resolver: URLResolver | None = None, before: str = "") -> Iterator[tuple[str, str]]:
    """(route, name) of every address that the installation answers."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.name or ""


def addresses(world: World) -> list[str]:
    """Every address about this organization's objects, and those about none."""
    idp = IdentityProvider.objects.filter(org=world.org).first()
    assert idp
    found = [
        *pages(world),
        *_of_rows(world),
        *(API + case.path(world) for case in CASES.values()),
        f"/login/{world.org.slug}/",
        *(f"/{name}/{idp.pk}/" for name in ("oidc/start", "oidc/test", "setup/sign-in")),
        f"/explain/{world.org.pk}",
        "/api/v1/none/of/these",
        "/api/none",
        "/orgs/",
        "/no/such/page",
        *(f"/{route}" for route, _ in routes() if "<" not in route and "(" not in route),
    ]
    return list(dict.fromkeys(path.partition("?")[0] for path in found))


def _of_rows(world: World) -> Iterator[str]:
    """Every page and action of the admin about one row of each model."""
    for model_admin in registered():
        meta = model_admin.model._meta
        key = str(rows_of(world, model_admin.model)[0].pk)
        begin = f"{meta.app_label}/{meta.model_name}/<path:object_id>"
        for route, _ in routes():
            if route.startswith(begin):
                rest = route.removeprefix(begin).replace("<int:number>", "1")
                yield f"/{meta.app_label}/{meta.model_name}/{key}{rest}"
        yield from (url(model_admin.model, name, key) for name in model_admin.actions_detail)


@pytest.fixture
def acme() -> World:
    return _world("acme")


@pytest.fixture
def globex() -> World:
    return _world("globex")


def _world(slug: str) -> World:
    cache.clear()
    world = furnished(getattr(factories, slug)())
    sandbox_of(world)
    invitation_of(world)
    return world


def strangers(acme: World, globex: World) -> dict[str, Client]:
    """Everybody who must not learn anything about the organization."""
    sandbox = sandbox_of(acme)
    value = token("lnsb")
    sandbox.token_hash, sandbox.state = token_hash(value), "ready"
    sandbox.save()
    operator = Client()
    operator.force_login(User.objects.create(email="operator@example.com", is_operator=True))
    return {
        "anonymous": Client(),
        "stranger": browser(globex.admin),
        "operator": operator,
        "their agent": Client(headers={"authorization": f"Bearer {globex.minted.value}"}),
        "our sandbox": Client(headers={"authorization": f"Bearer {value}"}),
    }


def onlookers(acme: World) -> dict[str, Client]:
    """Members who must not change anything of others."""
    return {"auditor": browser(acme.auditor), "other team": browser(acme.outsider)}


def stored() -> dict[str, list[dict[str, Any]]]:
    """Every row but what a look may leave."""
    found = everything()
    for model in VOLATILE:
        found.pop(model, None)
    for row in found["AgentToken"]:
        row.pop("last_used_at")
    for row in found["User"]:
        row.pop("last_login")
    return found


def ask(client: Client, method: str, path: str) -> Any:
    """One request, with a body that a form or the API may take for a change."""
    cache.clear()  # the brakes are tested elsewhere
    with transaction.atomic():
        if path.startswith("/api/") and method in ("post", "put", "patch"):
            body = {"name": "taken over", "role": "admin"}
            response = getattr(client, method)(path, body, "application/json")
        elif method == "post":
            response = client.post(path, FORM)
        else:
            response = getattr(client, method)(path)
        text = b"".join(response) if response.streaming else response.content
    return response, text.decode(errors="replace")


def test_every_route_has_an_address(acme: World) -> None:
    walked = {resolve(path).route for path in addresses(acme)}
    missing = {route for route, _ in routes()} - walked
    assert not missing, f"add an address to `addresses`: {sorted(missing)}"


def leaks(who: str, client: Client, paths: list[str], world: World) -> list[str]:
    """What this client was told of the organization: its names, and ids it did not ask with."""
    rows = [row for found in everything().values() for row in found]
    ours = {str(row["id"]) for row in rows if row.get("org_id") == world.org.pk and "id" in row}
    marks = {world.org.name, *(row.name for row in (world.admin, world.member, world.outsider))}
    found = []
    for path in paths:
        for method in METHODS:
            response, text = ask(client, method, path)
            assert response.status_code < 500, (who, method, path)
            told = [mark for mark in marks if mark in text]
            told += [key for key in ours if key in text and key not in path]
            if told and resolve(path).url_name not in PUBLIC:
                found.append(f"{who}: {method} {path} told {told}")
    return found


def test_who_does_not_belong_learns_nothing(acme: World, globex: World) -> None:
    paths = addresses(acme)
    for who, client in strangers(acme, globex).items():
        before = stored()
        assert leaks(who, client, paths, acme) == []
        assert stored() == before, who


def test_the_walk_bites(acme: World, globex: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the admin's filter switched off it finds what leaks then."""

    def everything_there_is(self: Any, _: object) -> Any:
        return self.model._default_manager.all()

    monkeypatch.setattr(OrgScoped, "get_queryset", everything_there_is)
    path = url(type(acme.credential), "changelist")
    assert leaks("stranger", browser(globex.admin), [path], acme)


def test_who_only_looks_changes_nothing(acme: World) -> None:
    paths = addresses(acme)
    for who, client in onlookers(acme).items():
        before = stored()
        for path in paths:
            for method in METHODS[2:6]:
                response, _ = ask(client, method, path)
                assert response.status_code < 500, (who, method, path)
        assert stored() == before, who
