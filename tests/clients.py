"""Clients that nobody wrote for us, inside a real sandbox, with no settings but its environment.

`make test-clients`. Each is the system's own program or library (undici comes from npm, where npm
is); one that this machine does not have is named and skipped. The last line is JSON: `clients`,
`failed`, `skipped`.
"""

# ruff: noqa: T201  a command that talks to people
from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.policies import codec
from apps.policies.types import (
    BUNDLE_FORMAT,
    WEBSOCKET,
    Action,
    Bundle,
    DomainRule,
    HttpRule,
    Layer,
    LayerKind,
)
from tests.apps.sandboxes.harness.conftest import start
from tests.twins.ca import TwinCa
from tests.twins.upstream import UpstreamTwin, pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.apps.sandboxes.harness.conftest import Box

API, GIT, LIVE = "api.example.com", "git.example.com", "live.example.com"
BIG = 256 << 20
UNDICI_VERSION = "6.21.1"
# Pure enough for the system's Python of the same version.
_LIBRARIES = ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "httpx", "httpcore",
              "h11", "anyio", "sniffio", "websockets", "typing_extensions.py")  # fmt: skip


NODE = """
const tls = require("tls"), http = require("http"), proxy = new URL(process.env.HTTPS_PROXY);
const to = {host: proxy.hostname, port: proxy.port, method: "CONNECT", path: "api.example.com:443",
            headers: {host: "api.example.com:443"}};
http.request(to).on("connect", (reply, socket) => {
  const secured = tls.connect({socket, servername: "api.example.com"}, () => secured.write(
    "GET /n HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"));
  secured.on("data", data => console.log(String(data)));
}).end();
"""
UNDICI = """
const {fetch, request, EnvHttpProxyAgent, ProxyAgent} = require("undici");
(async () => {
  const dispatcher = new EnvHttpProxyAgent();
  const got = await fetch("https://api.example.com/fetched", {dispatcher});
  console.log(got.status, (await got.json()).target);
  const body = JSON.stringify({a: "b".repeat(100000)});
  const sent = await fetch("https://api.example.com/up", {method: "POST", body, dispatcher});
  const sum = require("crypto").createHash("sha256").update(body).digest("hex");
  console.log(sent.status, (await sent.text()).includes(sum));
  await fetch("https://other.example.com/", {dispatcher}).catch(refused => {
    console.log(require("util").inspect(refused, {depth: 9}).match(/Proxy response \\(403\\)/)[0]);
  });
  const plain = await request("https://api.example.com/n",
                              {dispatcher: new ProxyAgent(process.env.HTTPS_PROXY)});
  console.log(plain.statusCode);
})();
"""
REQUESTS = """
import requests
with requests.Session() as session:
    for _ in range(3):
        print(session.get("https://api.example.com/r", timeout=20).json()["target"])
"""
HTTPX = """
import httpx
print(httpx.get("https://api.example.com/h", timeout=20).json()["target"])
"""
URLLIB = """
import urllib.request
print(urllib.request.urlopen("https://api.example.com/u", timeout=20).status)
"""
REFUSED = """
import asyncio, websockets
async def main():
    try:
        async with websockets.connect("wss://api.example.com/ws"):
            print("OPEN")
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""
WEBSOCKETS = """
import asyncio, os, websockets
async def main():
    where = "wss://live.example.com/ws/echo"
    async with asyncio.timeout(40), websockets.connect(where, max_size=None) as socket:
        for size in (0, 5, 70_000, 1_000_000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send([b"in ", b"parts"])
        print(await socket.recv(), socket.latency >= 0)
asyncio.run(main())
"""


@dataclass(frozen=True)
class Client:
    """What runs (a command, or a `program` given to it) and what it must print.

    `needs` is tried first; when it fails, the client is skipped.
    """

    name: str
    needs: str
    command: str
    expected: str
    program: str = ""


_PYTHON = "PYTHONPATH=/workspace/lib /usr/bin/python3"


_NODE = "NODE_PATH=/workspace/lib/node_modules node"


def _library(name: str, program: str, expected: str, module: str = "") -> Client:
    """A Python library."""
    needs = f"{_PYTHON} -c 'import {module or name}'"
    return Client(name, needs, f"{_PYTHON} -", expected, program)


def _clients() -> list[Client]:
    chunked = "-H 'Transfer-Encoding: chunked' --data-binary @-"
    upload = f"head -c 3000000 /dev/zero | curl -sS -X POST {chunked} https://{API}/up"
    return [
        Client("curl", "command -v curl", f"curl -sS https://{API}/open/x", "/open/x"),
        Client("curl --http2", "command -v curl", f"curl -sS --http2 https://{API}/x", "/x"),
        Client("curl to a host that is not allowed", "command -v curl",
               "curl -sS https://other.example.com/ 2>&1 || true", "403"),
        Client("curl, chunked upload of 3 MB", "command -v curl", upload,
               hashlib.sha256(bytes(3_000_000)).hexdigest()),
        Client("curl, download of 256 MB", "command -v sha256sum",
               f"curl -sS https://{API}/bytes/{BIG} | sha256sum", _sum_of_big()),
        _library("requests", REQUESTS, "/r\n/r\n/r"),
        _library("httpx", HTTPX, "/h"),
        _library("urllib.request", URLLIB, "200"),
        _library("websockets", WEBSOCKETS, "b'in parts' True"),
        _library("websockets, where no rule opens them", REFUSED, "403", "websockets"),
        Client("git clone over https", "command -v git",
               f"git clone -q https://{GIT}/repo.git /workspace/repo && cat /workspace/repo/file",
               "committed"),
        Client("node, CONNECT and tls", "command -v node", "node -", "HTTP/1.1 200", NODE),
        Client("npm's undici", f"{_NODE} -e 'require(\"undici\")'", f"{_NODE} -",
               "200 /fetched\n200 true\nProxy response (403)\n200", UNDICI),
    ]  # fmt: skip


def _sum_of_big() -> str:
    """What the twin's answer of that size sums up to: one block, over and over."""
    block, total = pattern(1 << 20), hashlib.sha256()
    for _ in range(BIG >> 20):
        total.update(block)
    return total.hexdigest()


class _Files(BaseHTTPRequestHandler):
    """A bare repository as plain files (git's dumb protocol)."""

    root = Path()

    def do_GET(self) -> None:
        path = (self.root / self.path.partition("?")[0].lstrip("/")).resolve()
        found = path.is_relative_to(self.root) and path.is_file()
        content = path.read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def _git(folder: Path, pem: Path) -> Iterator[int]:
    """A git server over https; its port."""
    work, bare = folder / "work", folder / "served" / "repo.git"
    work.mkdir()
    (work / "file").write_text("committed")
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (
        ("init", "-q", "-b", "main", str(work)),
        ("-C", str(work), "add", "file"),
        ("-C", str(work), *who, "commit", "-q", "-m", "first"),
        ("clone", "-q", "--bare", str(work), str(bare)),
        ("-C", str(bare), "update-server-info"),
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)  # noqa: S603, S607
    _Files.root = folder / "served"
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _policy() -> dict[str, Any]:
    rules = (
        *(DomainRule(host, host, Action.ALLOW) for host in (API, GIT)),
        DomainRule(LIVE, LIVE, Action.ALLOW, (HttpRule("ws", WEBSOCKET, "/ws/**", Action.ALLOW),)),
    )
    return codec.to_obj(
        Bundle(BUNDLE_FORMAT, 1, (Layer(LayerKind.TEAM, "team", "team", domains=rules),))
    )


@contextlib.contextmanager
def _sandbox() -> Iterator[Box]:
    """A sandbox whose API and git server are ours."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lens-clients-")))
        folder.chmod(0o711)
        authority = TwinCa()
        (folder / "ca.pem").write_text(authority.pem)
        pem = authority.issue(folder, API, GIT, LIVE)
        twin = stack.enter_context(UpstreamTwin(pem))
        git = stack.enter_context(_git(folder, pem))
        places = {host: ["127.0.0.1", twin.port] for host in (API, LIVE)}
        places[GIT] = ["127.0.0.1", git]
        daemon = start(
            folder,
            address_map=places,
            upstream_ca_file=str(folder / "ca.pem"),
        )
        stack.callback(daemon.stop)
        box = daemon.create(bundle=_policy())
        _install(box)
        yield box


def _from_npm() -> Path | None:
    """The folder with the packages of npm, fetched once; None where npm is not, or not online."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    folder = Path("build") / "clients" / UNDICI_VERSION
    wanted = folder / "node_modules"
    if not wanted.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--silent")
        subprocess.run(  # noqa: S603  a fixed package of a fixed version
            [npm, "install", "--prefix", str(folder), *options, f"undici@{UNDICI_VERSION}"],
            capture_output=True, check=False, timeout=180,
        )  # fmt: skip
    return wanted if (wanted / "undici").exists() else None


def _install(box: Box) -> None:
    """Put the libraries of this environment into the sandbox."""
    here = Path(sys.prefix, "lib", "python3.11", "site-packages")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in _LIBRARIES:
            if (here / name).exists():
                archive.add(here / name, name)
        packages = _from_npm()
        if packages is not None:
            archive.add(packages, "node_modules")
    status, answer = box.write("/workspace/lib.tgz", packed.getvalue())
    assert status == 200, answer
    done = box.run("mkdir lib && tar -xzf lib.tgz -C lib --no-same-owner")
    assert done.code == 0, done.err


def main() -> int:
    """0 when every client that is here works."""
    told: dict[str, str] = {}
    with _sandbox() as box:
        for client in _clients():
            told[client.name] = _try(box, client)
            print(f"  {told[client.name]:<8} {client.name}", flush=True)
    print(
        json.dumps(
            {
                "clients": len(told),
                "failed": sum(1 for one in told.values() if one.startswith("FAILED")),
                "skipped": sum(1 for one in told.values() if one == "skipped"),
            }
        )
    )
    return 1 if any(one.startswith("FAILED") for one in told.values()) else 0


def _try(box: Box, client: Client) -> str:
    if box.run(client.needs).code != 0:
        return "skipped"
    values: dict[str, Any] = {"timeout_ms": 60_000}
    if client.program:
        values["stdin"] = base64.b64encode(client.program.encode()).decode()
    done = box.run(client.command, **values)
    if client.expected in done.text:
        return "ok"
    return f"FAILED ({done.text[-200:]} {done.err.decode()[-300:]})"


if __name__ == "__main__":
    sys.exit(main())
