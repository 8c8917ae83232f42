"""Two organizations in a fresh data folder, and three identities that may call the REST API.

    python -m tests.fuzz.world

works on the data folder of its environment and prints the identities as JSON: the headers that each
one sends, and the ids of objects that exist. It runs in a process of its own, before the server.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import django
from django.core.management import call_command

if TYPE_CHECKING:
    from tests.factories import World


def main() -> None:
    """Migrate, build, print."""
    django.setup()
    call_command("migrate", verbosity=0)
    from tests import factories, tenancy  # noqa: PLC0415  after django.setup
    from tests.contracts.api_cases import CASES, invitation_of, sandbox_of  # noqa: PLC0415

    tenancy.begin()
    acme, globex = factories.acme(), factories.globex()
    for world in (acme, globex):
        sandbox_of(world)
        invitation_of(world)
    found = {
        "admin": session_of(acme),
        "agent": {"Authorization": f"Bearer {acme.minted.value}"},
        "stranger": session_of(globex),
    }
    paths = {name: case.path(acme) for name, case in CASES.items()}
    print(json.dumps({"identities": found, "paths": paths}))  # noqa: T201  its output


def session_of(world: World) -> dict[str, Any]:
    """The headers of the admin's browser."""
    from tests.apps.admin_support import browser  # noqa: PLC0415  after django.setup

    client, csrf = browser(world.admin), secrets.token_hex(16)
    cookies = {name: morsel.value for name, morsel in client.cookies.items()}
    cookies["lens_csrf"] = csrf
    return {
        "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        "X-CSRFToken": csrf,
    }


if __name__ == "__main__":
    main()
