"""The credential broker: gives a sandbox's egress proxy the one secret that it is about to inject.

Rules.
1. The peer is one of our own processes (SO_PEERCRED: a uid on the list), and shows the token of a
   sandbox that is alive and allowed now. Neither alone is enough.
2. The credential belongs to the sandbox's organization, is for its project or for all, is allowed
   to its team by its owner, is bound by the team's policy for this host, and its owner allows the
   host. All of it is looked up at each use, never remembered from the sandbox's start.
3. An answer holds for `TTL_SECONDS`. Values are never logged; a refusal is audited with its code.
4. Whatever goes wrong is a refusal.
"""

from __future__ import annotations

import errno
import hmac
import logging
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.common import frames
from apps.common.errors import Denied, LensError
from apps.common.hosts import HostError, PatternError, parse_host, parse_pattern
from apps.common.ids import token_hash
from apps.common.tenancy import edge, scope
from apps.connections.models import Credential
from apps.connections.services import credential_value
from apps.policies.models import CredentialBinding
from apps.policies.types import IN_URL
from apps.sandboxes.authentication import OWNER, SandboxTokens, audit_columns
from apps.sandboxes.events import SandboxAction
from apps.sandboxes.models import LIVE_STATES, Sandbox
from apps.sandboxes.peers import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TTL_SECONDS = 60
MAX_QUESTION = 16 * 1024
MAX_CONNECTIONS = 256
IDLE_SECONDS = 30.0
# Out of descriptors or memory, or a peer that is gone already: over in a moment.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
logger = logging.getLogger(__name__)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`{"ok": true, "value", "ttl"}` or `{"ok": false, "error": code}`; refusals are audited."""
    sandbox: Sandbox | None = None
    try:
        if question.get("op") != "credential":
            raise Denied("", code="malformed")  # noqa: TRY301  one place turns errors into answers
        with edge(), scope(_organization(question)):
            sandbox = _sandbox(question)
            credential = _credential(sandbox, question)
            return {"ok": True, "value": credential_value(credential), "ttl": TTL_SECONDS}
    except LensError as error:
        code = error.error_code
    except Exception as error:  # noqa: BLE001  rule 4
        # Without its text, which could quote the value.
        logger.error("a credential could not be opened: %s", type(error).__name__)  # noqa: TRY400
        code = "credential_unreadable"
    _audit_refusal(sandbox, question, code)
    return {"ok": False, "error": code}


def _organization(question: dict[str, Any]) -> uuid.UUID:
    """Whose the token is."""
    org_id = OWNER.id(token_hash(str(question.get("token"))))
    if org_id is None:
        raise Denied("", code="sandbox_unknown")
    return org_id


def _sandbox(question: dict[str, Any]) -> Sandbox:
    """The live sandbox that proves itself by id and token."""
    digest = token_hash(str(question.get("token")))
    rows = Sandbox.objects.select_related("org", "team", "project", "agent")
    row = rows.filter(pk=_uuid(question.get("sandbox_id")), state__in=LIVE_STATES).first()
    if row is None or not row.token_hash or not hmac.compare_digest(row.token_hash, digest):
        raise Denied("", code="sandbox_unknown")
    if SandboxTokens.problem(row):
        raise Denied("", code="sandbox_not_allowed")
    return row


def _credential(sandbox: Sandbox, question: dict[str, Any]) -> Credential:
    """The credential, if this sandbox may have it for this host now."""
    rows = Credential.objects.filter(org_id=sandbox.org_id)
    credential = rows.filter(pk=_uuid(question.get("credential_id"))).first()
    if credential is None:
        raise Denied("", code="credential_unknown")
    if credential.project_id not in (None, sandbox.project_id):
        raise Denied("", code="credential_of_other_project")
    if not credential.allowed_teams.filter(pk=sandbox.team_id).exists():
        raise Denied("", code="team_not_allowed")
    host = str(question.get("host"))
    bound = CredentialBinding.objects.filter(
        credential=credential, policy__team_id=sandbox.team_id, policy__kind="team"
    )
    if not credential.allow_in_url:
        bound = bound.exclude(injection__in=IN_URL)
    if not _covered(host, bound.values_list("pattern", flat=True)):
        raise Denied("", code="not_bound")
    if not _covered(host, credential.allowed_hosts):
        raise Denied("", code="host_not_allowed")
    return credential


def _covered(host: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns covers the host. The port was decided on by the proxy."""
    try:
        parsed = parse_host(host)
        return any(parse_pattern(text).matches_host(parsed) for text in patterns)
    except (HostError, PatternError):
        return False


def _uuid(value: object) -> uuid.UUID:
    try:
        return uuid.UUID(str(value))
    except ValueError as error:
        raise Denied("", code="malformed") from error


def _audit_refusal(sandbox: Sandbox | None, question: dict[str, Any], code: str) -> None:
    emitter.emit(
        {
            **(audit_columns(sandbox) if sandbox else {}),
            "surface": Surface.SANDBOX_OPERATION,
            "action": SandboxAction.CREDENTIAL_REFUSED,
            "resource_type": "credential",
            "resource_id": str(question.get("credential_id"))[:64],
            "result": Result.DENIED,
            "reason": code,
            "metadata": {
                "host": str(question.get("host"))[:255],
                "sandbox": str(question.get("sandbox_id"))[:64],
                **(sandbox.note if sandbox else {}),
            },
        }
    )


class Broker:
    """The listening thread, and one thread a connection, at most `MAX_CONNECTIONS` of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept, name="lens-broker", daemon=True)

    def start(self) -> None:
        """Bind the socket, replacing what a dead process left, and listen."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        # Proxies have uids of their own; who they are is asked of the kernel for each connection.
        self._path.chmod(0o666)
        self._listener.listen(128)
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer. Questions under way are answered."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._thread.join(5)

    def alive(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in _PASSING:
                    return
                time.sleep(0.01)
                continue
            if not is_ours(peer) or not self._places.acquire(blocking=False):
                peer.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()
            except RuntimeError:  # no thread to be had: the proxy refuses, and asks again later
                self._places.release()
                peer.close()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(IDLE_SECONDS)
                while (question := frames.recv_frame(peer, MAX_QUESTION)) is not None:
                    frames.send_frame(peer, _answer_in_thread(question))
        except (OSError, frames.FrameError):
            return
        finally:
            self._places.release()


def _answer_in_thread(question: dict[str, Any]) -> dict[str, Any]:
    close_old_connections()
    try:
        return answer(question)
    finally:
        close_old_connections()
