"""A headless Chromium, driven over its own debugging protocol: open, read, fill in, click."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import httpx
from websockets.sync.client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.sync.client import ClientConnection

PATIENCE = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where Chromium is, if it is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one tab. Names below `.test` lead to loopback; certificates are believed.

    `asked` are the URLs of all requests that the tab made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._open = ExitStack()
        self._process: subprocess.Popen[bytes]
        self._socket: ClientConnection
        self.asked: list[str] = []
        self.dialogs = 0

    def __enter__(self) -> Self:
        found = program()
        assert found
        self._process = subprocess.Popen(  # noqa: S603  a fixed program
            [
                found,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--ignore-certificate-errors",
                "--host-resolver-rules=MAP *.test 127.0.0.1",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._open.callback(self._end)
        try:
            self._connect()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def open(self, url: str) -> None:
        """Go somewhere, and wait until the page is there."""
        self.call("Page.navigate", url=url)
        self.settle()

    def settle(self) -> None:
        """Wait until the tab has loaded and nothing has moved for a moment."""
        until, seen = time.monotonic() + PATIENCE, ("", 0.0)
        while time.monotonic() < until:
            state = self.run("document.readyState + ' ' + performance.timeOrigin") or ""
            now = time.monotonic()
            if state != seen[0]:
                seen = (str(state), now)
            elif str(state).startswith("complete") and now - seen[1] > 0.4:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.url} did not finish loading")

    @property
    def url(self) -> str:
        """Where the tab is."""
        return str(self.run("location.href"))

    @property
    def text(self) -> str:
        """What a person reads."""
        return str(self.run("document.body.innerText"))

    def fill(self, name: str, value: str) -> None:
        """Type into the field of this name."""
        found = self.run(
            f"(() => {{ const e = document.querySelector(`[name={json.dumps(name)}]`);"
            f" if (!e) return false; e.value = {json.dumps(value)}; return true }})()"
        )
        assert found, f"no field {name} on {self.url}:\n{self.text}"

    def click(self, text: str) -> None:
        """Click the link or button that says this, and wait for what comes."""
        found = self.run(
            "(() => { const all = [...document.querySelectorAll('a, button, summary')];"
            " const says = e => e.textContent.replace(/\\s+/g, ' ').trim();"
            f" const wanted = {json.dumps(text)};"
            " const e = all.find(e => says(e) === wanted)"
            " || all.find(e => says(e).includes(wanted));"
            " if (!e) return false; e.click(); return true })()"
        )
        assert found, f"nothing says {text!r} on {self.url}:\n{self.text}"
        self.settle()

    def run(self, script: str) -> Any:
        """The value of an expression in the page; None while there is no page."""
        try:
            answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        except RuntimeError:  # the page went away under it
            return None
        return answer.get("result", {}).get("value")

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol; RuntimeError when it fails."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            self._note(message)
            if message.get("id") != number:
                continue
            if "error" in message:
                raise RuntimeError(message["error"].get("message"))
            return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method == "Network.requestWillBeSent":
            self.asked.append(message["params"]["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs += 1
            number = next(self._numbers)
            close = {"id": number, "method": "Page.handleJavaScriptDialog", "params": {}}
            self._socket.send(json.dumps({**close, "params": {"accept": False}}))

    def _connect(self) -> None:
        file = self._folder / "DevToolsActivePort"
        until = time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text().strip()):
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        port = re.match(r"\d+", file.read_text())
        assert port
        tabs = httpx.get(f"http://127.0.0.1:{port.group()}/json").json()
        tab = next(one for one in tabs if one["type"] == "page")
        self._socket = self._open.enter_context(
            connect(tab["webSocketDebuggerUrl"], max_size=None, compression=None)
        )
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
