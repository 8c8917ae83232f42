"""An egress proxy in a process of its own, as sandboxd would run it, and a broker beside it.

`EgressTwin` is the parent's side: it opens the listener, starts the process, sends bundles over the
control channel and reads the audit spool. Run as a program, this module is the proxy's process.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from apps.common import frames
from apps.policies import codec
from apps.proxy.egress.config import EgressConfig, Limits

if TYPE_CHECKING:
    from apps.policies.types import Bundle

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "lnsb_" + "t" * 43
PROJECT = "shop"
SANDBOX = "0190a0a0-0000-7000-8000-000000000001"


class BrokerTwin:
    """A credential broker on a Unix socket; `values` maps a credential id to its value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, str] = {}
        self.refusal = "credential_refused"
        self.asked: list[dict[str, Any]] = []
        self.ttl = 60
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Go away."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError, frames.FrameError):
                while (question := frames.recv_frame(conn)) is not None:
                    self.asked.append(question)
                    frames.send_frame(conn, self._answer(question))

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        value = self.values.get(question["credential_id"])
        if question["token"] != TOKEN or value is None:
            return {"ok": False, "error": self.refusal}
        return {"ok": True, "value": value, "ttl": self.ttl}


class EgressTwin:
    """A running egress proxy. `port` is where agents connect, `ca_file` what they trust."""

    def __init__(
        self,
        folder: Path,
        *,
        address_map: dict[str, tuple[str, int]] | None = None,
        upstream_ca_file: Path | None = None,
        limits: Limits | None = None,
        platform_socket: Path | None = None,
    ) -> None:
        self._marked = 0
        self.spool_dir = folder / "spool"
        self.spool_dir.mkdir()
        self.broker = BrokerTwin(folder / "broker.sock")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.control, theirs = socket.socketpair()
        self.control.settimeout(20)
        options = {
            "listener": self.listener.fileno(),
            "control": theirs.fileno(),
            "broker_socket": str(self.broker.path),
            "spool_dir": str(self.spool_dir),
            "address_map": address_map or {},
            "upstream_ca_file": str(upstream_ca_file) if upstream_ca_file else None,
            "limits": asdict(limits or Limits()),
            "platform_socket": str(platform_socket) if platform_socket else None,
        }
        self.process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [sys.executable, "-m", "tests.twins.egress", json.dumps(options)],
            cwd=ROOT,
            pass_fds=(self.listener.fileno(), theirs.fileno()),
            env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        )
        theirs.close()
        ready = frames.recv_frame(self.control)
        assert ready is not None
        assert ready["op"] == "ready"
        self.ca_pem: str = ready["ca_pem"]
        self.ca_file = folder / "sandbox-ca.pem"
        self.ca_file.write_text(self.ca_pem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        try:
            self.process.wait(timeout=10)
        finally:
            self.process.kill()
            self.process.wait()
            self.listener.close()
            self.broker.close()

    def tell(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a control message and return the answer."""
        frames.send_frame(self.control, message)
        answer: dict[str, Any] | None = frames.recv_frame(self.control)
        assert answer is not None
        return answer

    def apply(self, bundle: Bundle) -> dict[str, Any]:
        """Put a bundle into force."""
        return self.tell({"op": "bundle", "bundle": codec.to_obj(bundle)})

    def events(self) -> list[dict[str, Any]]:
        """All audit events so far, in order."""
        lines: list[str] = []
        for path in sorted(self.spool_dir.iterdir()):
            # A line that is being written is not there yet.
            lines += path.read_text().rpartition("\n")[0].splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return found

    def event(self, decision_id: str, seconds: float = 5.0) -> dict[str, Any]:
        """The event of one decision; waits for it."""
        until = time.monotonic() + seconds
        while True:
            for event in self.events():
                if event["decision_id"] == decision_id:
                    return event
            assert time.monotonic() < until, f"no audit event {decision_id}"
            time.sleep(0.02)

    def wait_for_event(self, seconds: float = 5.0, **wanted: object) -> dict[str, Any]:
        """The newest event since `mark` with these columns or metadata; waits for it."""
        until = time.monotonic() + seconds
        while True:
            for event in self.events()[self._marked :][::-1]:
                flat = {**event["metadata"], **event}
                if all(flat.get(key) == value for key, value in wanted.items()):
                    return event
            assert time.monotonic() < until, f"no audit event with {wanted}: {self.events()[-5:]}"
            time.sleep(0.02)

    def mark(self) -> None:
        """From here on `wait_for_event` looks at later events only."""
        self._marked = len(self.events())

    def memory_kb(self, name: str = "VmRSS") -> int:
        """A memory figure of the proxy's process in kB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise AssertionError(name)


def main(options: dict[str, Any]) -> None:
    """The proxy's process."""
    from apps.proxy.egress.main import run_proxy  # noqa: PLC0415  the parent does not need it

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as a fork server's child has it
    config = EgressConfig(
        sandbox_id=SANDBOX,
        sandbox_token=TOKEN,
        broker_socket=Path(options["broker_socket"]),
        spool_dir=Path(options["spool_dir"]),
        identity={
            "org": None,
            "org_slug": "acme",
            "principal_name": "tester",
            "project_slug": PROJECT,
        },
        platform_socket=Path(options["platform_socket"]) if options["platform_socket"] else None,
        address_map={host: (ip, port) for host, (ip, port) in options["address_map"].items()},
        upstream_ca_file=Path(options["upstream_ca_file"]) if options["upstream_ca_file"] else None,
        explain_url="https://lens.test/decisions",
        limits=Limits(**options["limits"]),
    )
    listener = socket.socket(fileno=options["listener"])
    run_proxy([listener], socket.socket(fileno=options["control"]), config)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
