"""`/livez` and `/readyz`: raw ASGI, since a probe names the host by address and speaks no TLS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from apps.common import row_security

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_migrated = False
_isolated = False
_services: dict[str, Callable[[], bool]] = {}


def watch(name: str, alive: Callable[[], bool]) -> None:
    """Let `/readyz` fail once a service of this process, which must run, is not alive any more."""
    _services[name] = alive


def database_state() -> str:
    """`ok`, or in a few words why the database cannot serve."""
    global _migrated, _isolated  # noqa: PLW0603  once right, it stays so for this code
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            executor = MigrationExecutor(connection)
            _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
        if not _isolated:
            problem = row_security.problem(connection)
            _isolated = not problem
            if problem:
                return problem
    except DatabaseError:
        return "unreachable"
    finally:
        connection.close_if_unusable_or_obsolete()
    return "ok" if _migrated else "migrations are missing"


async def livez(_scope: Message, _receive: Receive, send: Send) -> None:
    """200 as long as the event loop turns."""
    await _answer(send, 200, {"status": "ok"})


async def readyz(_scope: Message, _receive: Receive, send: Send) -> None:
    """200 when requests can be served, else 503 with what is missing."""
    checks = {"database": await sync_to_async(database_state)()}
    checks |= {name: "ok" if alive() else "not running" for name, alive in _services.items()}
    ready = all(state == "ok" for state in checks.values())
    body = {"status": "ok" if ready else "unavailable", "checks": checks}
    await _answer(send, 200 if ready else 503, body)


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
