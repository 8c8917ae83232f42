"""The credential broker: what it asks before it gives a secret, and whom it turns away."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections

from apps.agents import services as agents
from apps.audit import emitter
from apps.common import frames, ids
from apps.connections import services as credentials
from apps.connections.models import Credential
from apps.orgs import services as orgs
from apps.orgs.authentication import authenticate
from apps.orgs.types import SYSTEM
from apps.policies import services as policies
from apps.policies.documents import document_of
from apps.policies.models import CredentialBinding
from apps.sandboxes import broker, services
from apps.sandboxes.models import Sandbox
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.factories import World

pytestmark = pytest.mark.database
TOKEN = ids.token("lnsb")
HOST = "api.github.com"


def sandbox_of(world: World, token: str = TOKEN) -> Sandbox:
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    Sandbox.objects.filter(pk=row.pk).update(state="ready", token_hash=ids.token_hash(token))
    return row


@pytest.fixture
def sandbox(world: World) -> Sandbox:
    return sandbox_of(world)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(emitter.spool(), "emit", events.append)
    return events


def asked(world: World, sandbox: Sandbox, **other: Any) -> dict[str, Any]:
    question = {
        "op": "credential",
        "sandbox_id": str(sandbox.pk),
        "token": TOKEN,
        "credential_id": str(world.credential.pk),
        "host": HOST,
    }
    return broker.answer({**question, **other})


def test_a_bound_credential_is_given(
    world: World, sandbox: Sandbox, seen: list[dict[str, Any]]
) -> None:
    answer = asked(world, sandbox)
    assert answer == {"ok": True, "value": factories.SECRET_VALUE, "ttl": 60}
    assert seen == []


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"token": ids.token("lnsb")}, "sandbox_unknown"),
        ({"token": ""}, "sandbox_unknown"),
        ({"token": None}, "sandbox_unknown"),
        ({"sandbox_id": str(uuid.uuid4())}, "sandbox_unknown"),
        ({"sandbox_id": "' OR 1=1"}, "malformed"),
        ({"credential_id": str(uuid.uuid4())}, "credential_unknown"),
        ({"credential_id": 7}, "malformed"),
        ({"host": "evil.example"}, "not_bound"),
        ({"host": "api.github.com.evil.example"}, "not_bound"),
        ({"host": "api.github.com@evil.example"}, "not_bound"),
        ({"host": None}, "not_bound"),
        ({"op": "list"}, "malformed"),
    ],
)
def test_whatever_is_not_right_is_refused_and_audited(
    world: World,
    sandbox: Sandbox,
    seen: list[dict[str, Any]],
    other: dict[str, Any],
    code: str,
) -> None:
    assert asked(world, sandbox, **other) == {"ok": False, "error": code}
    [event] = seen
    assert (event["action"], event["result"]) == ("sandbox.credential_refuse", "denied")
    assert event["reason"] == code
    assert TOKEN not in str(event)
    assert factories.SECRET_VALUE not in str(event)


def stop(world: World, sandbox: Sandbox) -> None:
    services.sandbox_stop(sandbox, reason="over", actor=SYSTEM)


def disable(world: World, sandbox: Sandbox) -> None:
    agents.agent_disable(world.agent, actor=world.admin)


def delete_team(world: World, sandbox: Sandbox) -> None:
    orgs.team_delete(world.team, actor=world.admin)


def unbind(world: World, sandbox: Sandbox) -> None:
    document = dataclasses.replace(document_of(world.policy), bindings=())
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)


def forbid_urls(world: World, sandbox: Sandbox) -> None:
    CredentialBinding.objects.update(injection="query", parameter="key")


def disallow_team(world: World, sandbox: Sandbox) -> None:
    world.credential.allowed_teams.set([world.other_team])


def other_hosts(world: World, sandbox: Sandbox) -> None:
    Credential.objects.update(allowed_hosts=["uploads.github.com"])


def other_project(world: World, sandbox: Sandbox) -> None:
    Credential.objects.update(project=world.other_project)


def unreadable(world: World, sandbox: Sandbox) -> None:
    Credential.objects.update(ciphertext=b"\0" * 64)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (stop, "sandbox_unknown"),
        (disable, "sandbox_not_allowed"),
        (delete_team, "sandbox_not_allowed"),
        (unbind, "not_bound"),
        (forbid_urls, "not_bound"),
        (disallow_team, "team_not_allowed"),
        (other_hosts, "host_not_allowed"),
        (other_project, "credential_of_other_project"),
        (unreadable, "credential_unreadable"),
    ],
)
def test_what_was_allowed_is_asked_again_at_each_use(
    world: World,
    sandbox: Sandbox,
    seen: list[dict[str, Any]],
    change: Callable[[World, Sandbox], None],
    code: str,
) -> None:
    assert asked(world, sandbox)["ok"]
    change(world, sandbox)
    assert asked(world, sandbox) == {"ok": False, "error": code}


def test_a_stranger_gets_nothing(world: World, sandbox: Sandbox, seen: list[Any]) -> None:
    stranger = factories.globex()
    theirs = ids.token("lnsb")
    foreign = sandbox_of(stranger, theirs)
    for credential in (world.credential, stranger.credential):
        answer = asked(world, sandbox, credential_id=str(credential.pk))
        assert answer["ok"] is (credential == world.credential)
    answer = asked(world, foreign, token=theirs)
    assert answer == {"ok": False, "error": "credential_unknown"}


def test_an_organization_wide_credential_serves_every_project(world: World) -> None:
    sandbox = sandbox_of(world)
    Credential.objects.update(project=None)
    assert asked(world, sandbox)["ok"]


def test_a_new_value_is_given_at_once(world: World, sandbox: Sandbox) -> None:
    credentials.credential_update(world.credential, value="ghp_new-value", actor=world.admin)
    assert asked(world, sandbox)["value"] == "ghp_new-value"


@pytest.fixture
def path(tmp_path: Path, socket_enabled: None) -> Iterator[Path]:
    """A broker that listens, in a folder that other users can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="lens-broker-"))
    folder.chmod(0o711)
    server = broker.Broker(folder / "broker.sock")
    server.start()
    try:
        yield folder / "broker.sock"
        assert server.alive()
    finally:
        server.stop()
        shutil.rmtree(folder)
        connections.close_all()


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    return sock


@pytest.mark.django_db(transaction=True)
def test_one_connection_carries_many_questions(path: Path) -> None:
    world = factories.acme()
    sandbox = sandbox_of(world)
    with connected(path) as sock:
        for host, ok in ((HOST, True), ("evil.example", False), (HOST, True)):
            question = {
                "op": "credential",
                "sandbox_id": str(sandbox.pk),
                "token": TOKEN,
                "credential_id": str(world.credential.pk),
                "host": host,
            }
            frames.send_frame(sock, question)
            answer = frames.recv_frame(sock)
            assert answer is not None
            assert answer["ok"] is ok


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\5"])
def test_nonsense_ends_the_connection_only(path: Path, nonsense: bytes) -> None:
    with connected(path) as sock:
        sock.sendall(nonsense)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_it_goes_on_when_there_are_descriptors_again(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            sock.connect(str(path))
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            time.sleep(0.1)  # for the server to fail; it may as well not have tried yet
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        sock.sendall(b"\0\0\0\2[]")
        assert sock.recv(1) == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
@pytest.mark.parametrize(("uid", "served"), [(54_321, False), (300_007, True)])
@pytest.mark.django_db(transaction=True)
def test_only_our_own_users_are_served(
    path: Path, settings: Any, uid: int, *, served: bool
) -> None:
    settings.SANDBOX_BROKER_UIDS = [(300_000, 300_255)]
    child = os.fork()
    if child == 0:
        os._exit(_ask_as(uid, path))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (10 if served else 20)


def _ask_as(uid: int, path: Path) -> int:
    """In a child: 10 when the broker answered, 20 when it hung up, 30 for anything else."""
    try:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        with connected(path) as sock:
            try:
                frames.send_frame(sock, {"op": "nothing"})
                return 20 if frames.recv_frame(sock) is None else 10
            except OSError:
                return 20
    except BaseException:  # noqa: BLE001  the child must not run on into the tests
        return 30
