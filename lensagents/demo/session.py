"""The demo from end to end: twin, seed, platform, session, audit trail, and what to open then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from apps.audit.models import AuditEvent, Surface
from apps.common import clock
from apps.common.tenancy import scope
from apps.orgs import devidp
from apps.orgs.models import IdentityProvider
from apps.orgs.services.identity_providers import idp_create_development, idp_enable
from apps.orgs.types import SYSTEM
from lensagents.demo import play
from lensagents.demo.seed import PEOPLE, seed
from lensagents.demo.story import HOST, steps
from lensagents.demo.twin import TicketingTwin

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator

    from apps.orgs.models import Organization

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
AUDIT_TIMEOUT_S = 5
SHOWN_SURFACES = ("mcp_tool", "forward_proxy")
EXIT_DIFFERS, EXIT_ISOLATION = 1, 3


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the session left: where to look, and whether everything went as told."""

    url: str
    ok: bool


def ticketing_token() -> str:
    """The real credential of the demo's ticketing API: kept in the data folder, mode 0600.

    The vault holds it sealed; the twin needs it in the clear to check what arrives.
    """
    path = settings.DATA_DIR / "demo-ticketing-token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"tkt_{secrets.token_urlsafe(32)}")
    return path.read_text()


@contextlib.contextmanager
def session(port: int, say: Callable[[str], None]) -> Iterator[Session]:
    """Play the demo; inside the context the platform is up, after it everything is stopped."""
    secret = ticketing_token()
    say("Preparing Acme Corp …")
    call_command("migrate", verbosity=0, interactive=False)
    seeded = seed(secret)
    connect_sign_in(seeded.org)
    token = seeded.token
    connection.close()
    with TicketingTwin(HOST, secret) as twin, platform(twin, port) as url:
        say(f"The platform runs at {url}\n")
        started = clock.now()
        told = asyncio.run(play.play(f"{url}/mcp", token, lambda one: say(_line(one))))
        ok = all(one.ok for one in told) and _proves(twin, told, secret, say)
        with scope(seeded.org.pk):
            ok = _show_audit(started, say) and ok
        yield Session(url, ok)


def connect_sign_in(org: Organization) -> None:
    """The people of the seed can sign in at once, through the development identity provider."""
    people = [{"sub": email, "email": email, "name": name} for email, name, _, _ in PEOPLE]
    issuer = devidp.prepare(settings.DATA_DIR, people)
    with scope(org.pk):
        if not IdentityProvider.objects.filter(org=org, issuer=issuer).exists():
            idp_enable(idp_create_development(org, issuer=issuer, actor=SYSTEM), actor=SYSTEM)


def _line(one: play.Told) -> str:
    mark = "ok  " if one.ok else "FAIL"
    return f"  {mark} {one.title:<34} {one.seen}"


def _proves(
    twin: TicketingTwin, told: list[play.Told], secret: str, say: Callable[[str], None]
) -> bool:
    """The twin got the real credential each time; nothing that the agent received contains it."""
    got = bool(twin.seen) and all(one.authorized for one in twin.seen)
    deleted = any(one.method == "DELETE" for one in twin.seen)
    leaked = any(secret in one.raw for one in told)
    say("")
    say(f"  {_mark(got)} The ticketing API got the real credential ({len(twin.seen)} requests).")
    say(f"  {_mark(not leaked)} Nothing that the agent received contains it.")
    say(f"  {_mark(not deleted)} The refused DELETE never reached the ticketing API.")
    return got and not leaked and not deleted


def _mark(good: bool) -> str:  # noqa: FBT001  a mark of a fact
    return "ok  " if good else "FAIL"


def _show_audit(since: dt.datetime, say: Callable[[str], None]) -> bool:
    """Print the session's trail once it is complete: a call's event is written after the call."""
    wanted = len(steps()) + sum(step.through_proxy for step in steps())
    deadline = time.monotonic() + AUDIT_TIMEOUT_S
    events: list[AuditEvent] = []
    while len(events) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
        events = list(
            AuditEvent.objects.filter(at__gte=since, surface__in=SHOWN_SURFACES).order_by("at")
        )
    say("\n  What the audit trail says:")
    for event in events:
        what = _what(event)[:56]
        say(f"    {event.at:%H:%M:%S}  {event.surface:<13} {event.result:<8} {what:<56} {event.id}")
    if len(events) < wanted:
        say(f"  FAIL only {len(events)} of {wanted} expected events arrived")
    return len(events) >= wanted


def _what(event: AuditEvent) -> str:
    if event.surface == Surface.FORWARD_PROXY:
        return "{method} {host}{path}".format_map({"method": "", "path": "", **event.metadata})
    return event.resource_id


@contextlib.contextmanager
def platform(twin: TicketingTwin, port: int) -> Iterator[str]:
    """`manage.py up` as a process of its own, told where the twin is; stopped by its pid."""
    ca_file = settings.DATA_DIR / "demo-twin-ca.pem"
    ca_file.write_text(twin.ca_pem)
    ca_file.chmod(0o644)  # the sandbox host reads it as another user
    environment = {
        **os.environ,  # noqa: TID251  handed on, not read
        "LENS_ADDRESS_MAP": json.dumps({twin.host: ["127.0.0.1", twin.port]}),
        "LENS_UPSTREAM_CA_FILE": str(ca_file),
    }
    log = settings.DATA_DIR / "demo-platform.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  our own interpreter and file
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=settings.BASE_DIR,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process, log.read_text)
        yield url
    finally:
        _stop(process)


def _wait_ready(url: str, process: subprocess.Popen[bytes], output: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the platform did not start:\n{output()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise DemoError(f"the platform was not ready after {START_TIMEOUT_S} s:\n{output()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
