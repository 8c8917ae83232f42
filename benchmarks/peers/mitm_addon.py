# mypy: ignore-errors
# ruff: noqa: TID251, PTH123, SIM115  a script of another environment
"""What our bundle says, as a mitmproxy 11 addon: host, method and path; streamed bodies.

With LENS_BENCH_GOVERNED=1 also a credential header and one audit line a request. Runs in
mitmproxy's own environment, never in ours.
"""

import json
import os
import time

from mitmproxy import http

GOVERNED = os.environ.get("LENS_BENCH_GOVERNED") == "1"
AUDIT = open(os.environ["LENS_BENCH_AUDIT"], "ab", buffering=0) if GOVERNED else None


def _allowed(request: http.Request) -> bool:
    return (
        request.pretty_host.endswith(".bench.test")
        and request.method in {"GET", "POST"}
        and not request.path.startswith("/admin")
    )


def requestheaders(flow: http.HTTPFlow) -> None:
    if not _allowed(flow.request):
        flow.response = http.Response.make(403, b"{}", {"Content-Type": "application/json"})
        return
    flow.request.stream = True
    if GOVERNED:
        flow.request.headers["Authorization"] = "Bearer " + "x" * 32


def responseheaders(flow: http.HTTPFlow) -> None:
    flow.response.stream = True


def response(flow: http.HTTPFlow) -> None:
    if AUDIT is not None:
        event = {
            "at": time.time(),
            "method": flow.request.method,
            "host": flow.request.host,
            "path": flow.request.path,
            "status": flow.response.status_code,
        }
        AUDIT.write(json.dumps(event).encode() + b"\n")
