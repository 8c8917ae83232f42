"""A server as it is installed: three roles apart from each other, and the switch between them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps

from apps.common.tenant_guard import tenant_models
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import os, sys, json
os.geteuid = lambda: 1000  # the server settings refuse root, as which tests may run
import django; django.setup()
"""
# Who may work on all organizations, and who begins anew within a scope: each was read for that.
SYSTEM = {
    "apps/audit/writer.py",
    "apps/jobs/lease.py",
    "apps/jobs/runner.py",
    "apps/orgs/tasks.py",
    "apps/sandboxes/tasks.py",
    "apps/sandboxes/watch.py",
    "lensagents/demo/seed.py",
    "lensagents/management/commands/bootstrap.py",
    "lensagents/management/commands/break_glass.py",
    "lensagents/management/commands/migrate.py",
    "lensagents/management/commands/recover_sign_in.py",
    "lensagents/management/commands/up.py",
    "lensagents/management/commands/verify_domain.py",
}
EDGE = {
    "apps/jobs/periodic.py",
    "apps/jobs/runner.py",
    "apps/orgs/api/base.py",
    "apps/orgs/authentication.py",
    "apps/orgs/middleware.py",
    "apps/orgs/oidc/flow.py",
    "apps/orgs/services/break_glass.py",
    "apps/orgs/services/invitations.py",
    "apps/orgs/services/setup.py",
    "apps/orgs/session.py",
    "apps/orgs/views/invitations.py",
    "apps/orgs/views/sign_in.py",
    "apps/orgs/views/sign_out.py",
    "apps/sandboxes/broker.py",
}


def callers(name: str) -> set[str]:
    """The modules of the product that use a function of `apps.common.tenancy`."""
    found = set()
    for path in [*(ROOT / "apps").rglob("*.py"), *(ROOT / "lensagents").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "apps.common.tenancy":
                used = name in {one.name for one in node.names}
            else:
                used = isinstance(node, ast.Attribute) and ast.unparse(node) == f"tenancy.{name}"
            if used:
                found.add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("name", "reviewed"),
    [("system", SYSTEM), ("edge", EDGE), ("looking_up", {"apps/common/lookups.py"})],
)
def test_who_may_leave_or_widen_a_scope_is_listed(name: str, reviewed: set[str]) -> None:
    assert callers(name) == reviewed


def test_every_other_table_is_listed_with_its_reason() -> None:
    page = (ROOT / "docs" / "tenancy.md").read_text()
    section = page.split("## Tables that belong to no organization")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", section, re.MULTILINE))
    tenants = set(tenant_models())
    others = {
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        if model not in tenants
    }
    assert set(listed) == others | {"django_migrations"}
    assert all(listed.values())


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """A private PostgreSQL with the three roles of an installation, migrated by the owner."""
    with services.postgresql() as url:
        variables = {"superuser": url, **services.create_roles(url, apart=True)}
        migrate = (
            "from django.core.management import call_command\ncall_command('migrate', verbosity=0)"
        )
        done = python(variables, migrate)
        assert done.returncode == 0, done.stderr
        yield variables


def python(
    variables: dict[str, str], code: str, **changed: str | None
) -> subprocess.CompletedProcess[str]:
    """Run code under the server settings; a variable that is None is not there."""
    env: dict[str, Any] = {
        "PATH": "/usr/bin:/bin",
        "DJANGO_SETTINGS_MODULE": "lensagents.settings.server",
        "LENS_PUBLIC_URL": "https://lens.example.com",
        "LENS_SECRET_KEY": "0123456789" * 5,
        "LENS_ENCRYPTION_KEYS": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        "LENS_REDIS_URL": "redis://localhost:6379/0",
        **{name: value for name, value in variables.items() if name.startswith("LENS_")},
        **changed,
    }
    return subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", SCRIPT + code],
        env={name: value for name, value in env.items() if value is not None},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


SWITCH = """
from django.db import connection, transaction
from apps.common.tenancy import OutsideScope, WrongScope, edge, scope, system
from apps.common.ids import uuid7
from apps.orgs.models import Organization
from apps.orgs.services.organizations import organization_create
from apps.orgs.types import SYSTEM
from lensagents.health import database_state

def who():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return cursor.fetchone()[0]

seen = {"state": database_state(), "nowhere": who()}
keys = uuid7(), uuid7()
for number, key in enumerate(keys):
    with scope(key):
        organization_create(slug=f"org-{number}", name="x", key=key, actor=SYSTEM)
with system("a test"):
    seen["system"] = who(), Organization.objects.count()
    with scope(keys[0]):
        found = Organization.objects.values_list("pk", flat=True)
        seen["scope"] = who(), [str(key) for key in found]
        assert Organization.objects.filter(pk=keys[1]).first() is None
    with edge():
        seen["edge"] = who()
    seen["again"] = who()
    try:
        with transaction.atomic(), scope(keys[0]):
            pass
    except WrongScope as error:
        seen["in a transaction"] = str(error)
try:
    with system("a test"):
        raise ZeroDivisionError
except ZeroDivisionError:
    seen["after"] = who()
with scope(keys[0]):
    chunks = [str(one.pk) for one in Organization.objects.iterator(chunk_size=1)]
    with transaction.atomic():
        chunks += [str(one.pk) for one in Organization.objects.iterator(chunk_size=1)]
seen["named cursors"] = chunks
seen["key"] = str(keys[0])
print(json.dumps(seen))
"""


@pytest.mark.slow  # starts a server and migrates it
class TestAServer:
    """As docs/install.md says."""

    def test_the_roles_work_together(self, server: dict[str, str]) -> None:
        done = python(server, SWITCH, LENS_DATABASE_OWNER_URL=None)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        key = seen.pop("key")
        assert seen.pop("in a transaction").startswith("End the transaction first")
        assert seen == {
            "state": "ok",
            "nowhere": "lens_app",
            "system": ["lens_system", 2],
            "scope": ["lens_app", [key]],
            "edge": "lens_app",
            "again": "lens_system",
            "after": "lens_app",
            "named cursors": [key, key],
        }

    def test_a_process_without_the_systems_url_cannot_be_it(self, server: dict[str, str]) -> None:
        code = "from apps.common.tenancy import system\nwith system('a test'): pass"
        done = python(server, code, LENS_DATABASE_SYSTEM_URL=None)
        assert "LENS_DATABASE_SYSTEM_URL must be set in it" in done.stderr

    def test_migrations_are_the_owners(self, server: dict[str, str]) -> None:
        code = "from django.core.management import call_command\ncall_command('migrate')"
        done = python(server, code, LENS_DATABASE_OWNER_URL=None)
        assert "LENS_DATABASE_OWNER_URL" in done.stderr.splitlines()[-1]

    def test_roles_must_differ(self, server: dict[str, str]) -> None:
        owner = server["LENS_DATABASE_OWNER_URL"]
        done = python(server, "", LENS_DATABASE_URL=owner)
        assert "three different roles" in done.stderr

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("superuser", "a superuser or has BYPASSRLS"),
            ("LENS_DATABASE_OWNER_URL", "owns tenant tables"),
            ("LENS_DATABASE_SYSTEM_URL", "can become lens_system"),
        ],
    )
    def test_readyz_refuses_a_role_that_sees_too_much(
        self, server: dict[str, str], name: str, told: str
    ) -> None:
        done = python(
            server,
            "from lensagents.health import database_state; print(database_state())",
            LENS_DATABASE_URL=server[name],
            LENS_DATABASE_OWNER_URL=None,
            LENS_DATABASE_SYSTEM_URL=None,
        )
        assert told in done.stdout, done.stderr
