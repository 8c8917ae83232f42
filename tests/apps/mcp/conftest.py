"""A live `/mcp` for tests: the real endpoint on a port, a small sandboxd, and a worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn
from django.conf import settings
from django.db import close_old_connections, connections
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from apps.agents import services as agents
from apps.audit import emitter
from apps.jobs import runner
from apps.jobs.models import Job, JobState
from apps.policies import services as policies
from apps.policies.documents import PolicyDocument, ToolRuleDoc
from lensagents.asgi import application
from lensagents.celery import app as celery
from tests import factories
from tests.platform import free_port
from tests.tenancy import everywhere
from tests.twins.sandboxd import SandboxdTwin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.factories import World

celery.loader.import_default_modules()  # as a worker does: it makes the kinds of jobs known
MODES = ("auto", "legacy", "2026-07-28")


class Worker(threading.Thread):
    """Does queued jobs as they come, as the platform's own worker does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            with everywhere():
                queued = Job.objects.filter(state=JobState.QUEUED)
                waiting = list(queued.values_list("pk", flat=True))
            for job_id in waiting:
                runner.run(job_id)
        connections.close_all()

    def stop(self) -> None:
        self.over.set()
        self.join(10)


class Server(threading.Thread):
    """The ASGI application on a loopback port, in a loop of its own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.port = free_port()
        config = uvicorn.Config(
            application,
            port=self.port,
            log_level="error",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        self.server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def run(self) -> None:
        asyncio.run(self.server.serve())
        connections.close_all()

    def begin(self) -> None:
        self.start()
        deadline = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.join(10)


@dataclass
class Edge:
    """What a test talks to and looks at."""

    url: str
    world: World
    twin: SandboxdTwin

    @property
    def token(self) -> str:
        return self.world.minted.value

    def other_agent(self, tools: tuple[str, ...]) -> str:
        """The token of a second agent, in a team of its own that may use only `tools`."""
        world = self.world
        policies.policy_save(
            world.org,
            document=PolicyDocument(
                name="Leads",
                team=world.other_team,
                tools=tuple(ToolRuleDoc(name) for name in tools),
            ),
            actor=world.admin,
        )
        agent = agents.agent_create(
            world.org, team=world.other_team, slug="lead-bot", name="Lead bot", actor=world.admin
        )
        return agents.token_create(agent, name="CI", actor=world.admin).value

    @contextlib.asynccontextmanager
    async def client(self, token: str | None = None, mode: str = "auto") -> AsyncIterator[Client]:
        """The official SDK's client, connected."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            transport = streamable_http_client(self.url, http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client


class Events(list[dict[str, Any]]):
    """What was emitted, in order."""

    def on(self, surface: str) -> list[dict[str, Any]]:
        return [event for event in self if event["surface"] == surface]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Every event that the spool was given, kept for the test as well."""
    seen = Events()
    spool = emitter.spool()
    write = spool.emit

    def keep(event: dict[str, Any]) -> None:
        seen.append(dict(event))
        write(event)

    monkeypatch.setattr(spool, "emit", keep)
    return seen


@pytest.fixture
def sandboxd(tmp_path: Path) -> Iterator[SandboxdTwin]:
    """sandboxd's twin where the settings expect the real one."""
    socket_path = Path(settings.DATA_DIR) / "run" / "sandboxd.sock"
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    with SandboxdTwin(socket_path, tmp_path / "boxes") as twin:
        yield twin


@pytest.fixture
def edge(transactional_db: None, sandboxd: SandboxdTwin, socket_enabled: None) -> Iterator[Edge]:
    """A running endpoint and worker, and Acme with one agent."""
    world = factories.acme()
    worker, server = Worker(), Server()
    worker.start()
    server.begin()
    try:
        yield Edge(server.url, world, sandboxd)
    finally:
        server.stop()
        worker.stop()
        close_old_connections()


async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run database work beside the loop, on a connection that is closed afterwards."""

    def run() -> Any:
        try:
            with everywhere():
                return function(*arguments, **named)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)
