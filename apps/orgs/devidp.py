"""The development identity provider: a real OpenID provider that believes whatever it is told.

Whoever reaches it signs in as anybody, so it starts only beside the embedded default and only on
loopback. The platform treats it like any other provider, except that its one key has no `kid` and
that it may be reached over http.

Its port is chosen once and kept in the data folder: a provider's issuer never changes, and it
contains the port.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from werkzeug.serving import BaseWSGIServer

HOST: Final = "127.0.0.1"
FILE: Final = "dev-idp.json"
STOP_SECONDS: Final = 3.0
DEFAULT_PEOPLE: Final = (
    {"sub": "admin", "email": "admin@example.com", "name": "Admin"},
    {"sub": "member", "email": "member@example.com", "name": "Member"},
)

logger = logging.getLogger(__name__)
_running: list[DevIdp] = []


def running_origin() -> str:
    """The issuer of the provider that runs in this process, or "" when none does."""
    return _running[0].issuer if _running else ""


def prepare(folder: Path, people: Iterable[Mapping[str, str]]) -> str:
    """Choose the port and the people (`sub`, `email`, `name`) of a later start; the issuer.

    For whoever connects the provider before the platform runs. A port chosen before stays.
    """
    file = folder / FILE
    port = int(_saved(file).get("port", 0)) or _free_port()
    _save(file, port, people)
    return f"http://{HOST}:{port}"


class DevIdp:
    """One provider: `start`, `stop`, and `issuer` in between.

    `people` are offered on its page as buttons; any other e-mail address may be typed there.
    """

    def __init__(self, folder: Path, *, bind: str, loopback: bool, port: int = 0) -> None:
        if not settings.DEV_IDP_ALLOWED:
            raise ImproperlyConfigured(
                "The development identity provider runs beside the embedded default only."
            )
        if not loopback:
            raise ImproperlyConfigured(
                f"The development identity provider signs anybody in as anybody, so it does not"
                f" start when the platform listens on {bind}. Listen on 127.0.0.1, or start with"
                " --no-dev-idp and connect your own identity provider."
            )
        self._file = folder / FILE
        saved = _saved(self._file)
        self._port = port or int(saved.get("port", 0))
        self._people = saved.get("people") or list(DEFAULT_PEOPLE)
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def issuer(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Listen, and serve in a thread; ImproperlyConfigured when the kept port is taken."""
        # Imported here: it brings Flask and Authlib, which only the embedded default installs.
        from werkzeug.serving import make_server  # noqa: PLC0415

        from apps.orgs.devidp_app import make_app  # noqa: PLC0415

        try:
            self._server = make_server(HOST, self._port, lambda *_: [], threaded=True)
        except (OSError, SystemExit):  # it exits where it may not listen
            raise ImproperlyConfigured(
                f"The development identity provider cannot listen on {HOST} port {self._port}, the"
                f" port in {self._file}: stop whatever listens there. With another port everybody"
                " who signed in through it would be somebody new."
            ) from None
        self._port = self._server.server_port
        self._server.app = make_app(self.issuer, self._people)
        _save(self._file, self._port, self._people)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="dev-idp"
        )
        self._thread.daemon = True
        self._thread.start()
        _running.append(self)

    def stop(self) -> None:
        """Stop listening and end the thread."""
        if self in _running:
            _running.remove(self)
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join(STOP_SECONDS)
        self._server.server_close()

    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread is not None and self._thread.is_alive()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _save(file: Path, port: int, people: Iterable[Mapping[str, str]]) -> None:
    file.write_text(json.dumps({"port": port, "people": list(people)}, indent=2) + "\n")


def _saved(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ImproperlyConfigured(f"{file} is not JSON: correct it, or delete it.") from None
    return found if isinstance(found, dict) else {}
