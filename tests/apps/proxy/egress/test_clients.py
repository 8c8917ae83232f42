"""Clients that nobody wrote for us, with nothing but the usual settings."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.apps.proxy.egress.conftest import SECRET
from tests.twins.upstream import pattern

if TYPE_CHECKING:
    from pathlib import Path

    from tests.apps.proxy.egress.conftest import Rig

H = "api.example.com"


def proxy(rig: Rig) -> str:
    return f"http://127.0.0.1:{rig.egress.port}"


def test_httpx(rig: Rig) -> None:
    with httpx.Client(proxy=proxy(rig), verify=rig.context, timeout=10) as client:
        assert (
            client.get(f"https://{H}/open/x", params={"a": "b"}).json()["target"] == "/open/x?a=b"
        )
        assert client.post(f"https://{H}/open/x", json={"a": 1}).json()["body"] == '{"a":1}'
        upload = client.put(f"https://{H}/open/x", content=iter([b"a" * 70_000, b"b"]))
        assert upload.json()["size"] == 70_001
        denied = client.get(f"https://{H}/admin/x")
        assert (denied.status_code, denied.json()["rule"]) == (403, "no-admin")
        assert client.get("http://plain.example.com/x").status_code == 200
        with client.stream("GET", f"https://{H}/drip/0.5") as stream:
            assert sum(1 for line in stream.iter_lines() if line) == 5
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get("https://other.example.com/")


def test_urllib(rig: Rig) -> None:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"https": proxy(rig), "http": proxy(rig)}),
        urllib.request.HTTPSHandler(context=rig.context),
    )
    with opener.open(f"https://{H}/open/x", timeout=10) as response:
        assert json.load(response)["target"] == "/open/x"
    with pytest.raises(OSError, match="403"):
        opener.open("https://other.example.com/", timeout=10)
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open("http://other.example.com/", timeout=10)
    with caught.value as denied:
        assert json.load(denied)["error"] == "egress_denied"


def curl(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "20", "-x", proxy(rig)]
    command += ["--cacert", str(rig.egress.ca_file), *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True)  # noqa: S603


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize("arguments", [(), ("--http2",), ("-d", "a=b"), ("-T", "/etc/hostname")])
def test_curl(rig: Rig, arguments: tuple[str, ...]) -> None:
    done = curl(rig, *arguments, f"https://{H}/open/x")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "/open/x"


@needs_curl
def test_curl_with_http_1_0_is_told_why_not(rig: Rig) -> None:
    assert (
        json.loads(curl(rig, "--http1.0", f"https://{H}/open/x").stdout)["rule"] == "http_version"
    )


@needs_curl
def test_curl_uploads_from_a_pipe_and_downloads(rig: Rig, tmp_path: Path) -> None:
    data = pattern(3_000_000)
    file = tmp_path / "data"
    file.write_bytes(data)
    chunked = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{file}")
    done = curl(rig, *chunked, f"https://{H}/open/x")
    assert json.loads(done.stdout)["sha256"] == hashlib.sha256(data).hexdigest()
    copy = tmp_path / "copy"
    assert curl(rig, "-o", str(copy), f"https://{H}/bytes/3000000").returncode == 0
    assert copy.read_bytes() == data


@needs_curl
def test_curl_never_sees_the_credential(rig: Rig) -> None:
    done = curl(rig, "-v", "https://cred.example.com/leak/5", "https://cred.example.com/redirect")
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr
    assert SECRET.encode() in rig.up.raw


@needs_curl
def test_curl_follows_a_redirect_without_the_credential(rig: Rig) -> None:
    done = curl(rig, "-L", "https://cred.example.com/redirect")
    # the redirect leads to a host that the policy does not allow
    assert done.returncode != 0
    assert "403" in done.stderr
    assert len(rig.up.seen) == 1
