"""`make fuzz`: schemathesis over the OpenAPI document, against a real server, as three callers.

    python -m tests.fuzz [--smoke] [--seed N] [--postgresql]

A fresh data folder with two organizations, a live Daphne on it, and for each identity (an admin's
session, an agent's token, the admin of the other organization who is given the first one's ids) a
run of schemathesis: boundary values, random and wrong data, and chains of calls. On SQLite, or on
a private PostgreSQL and Redis, which refuse other things than SQLite does. Prints a table
and, last, one line of JSON: `cases`, `server_errors`, `schema_violations`; exit 1 where one of
the last two is not 0.

Every check of the tool counts but one: `positive_data_acceptance` wants each document that fits the
schema to be accepted, and a schema cannot say which teams there are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests import services
from tests.platform import ROOT, environment, free_port, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "lensagents.settings.embedded",
    "LENS_API_CALLS_PER_MINUTE": "1000000",
    "LENS_LOG_LEVEL": "CRITICAL",
}
START_SECONDS = 60
SCHEMES = {"admin": "", "agent": "agentToken", "stranger": ""}
FULL = ("coverage,fuzzing,stateful", 5)
SMOKE = ("fuzzing", 2)
# What would end the session of the one who asks, so that the rest of a run tests nothing.
NOT_IN_CHAINS = ("memberships_update", "memberships_delete")
SERVER_ERROR = "ServerError"


def main() -> int:
    """Build, serve, fuzz, tell."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a minute, always the same cases")
    parser.add_argument("--seed", type=int, default=1, help="of the random data")
    parser.add_argument("--postgresql", action="store_true", help="with Redis, as on a server")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lens-fuzz-")))
        variables = environment({**SETTINGS, "LENS_DATA_DIR": str(folder / "data")})
        if options.postgresql:
            variables |= stack.enter_context(services.both())
            variables["DJANGO_SETTINGS_MODULE"] = "lensagents.settings.test"
        world = build(variables)
        with served(folder, variables) as url:
            found = [
                run(folder, url, world, who, smoke=options.smoke, seed=options.seed)
                for who in SCHEMES
            ]
    return tell(found)


def build(variables: dict[str, str]) -> dict[str, Any]:
    """The organizations, in the database; who may call, and which ids there are."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.world"],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


@contextlib.contextmanager
def served(folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """A live server in that environment; its address."""
    port = free_port()
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  our own interpreter
            [*command, "lensagents.asgi:application"],
            env=variables,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/api/v1/openapi.json", folder)
            yield url
        finally:
            stop(process)


def wait_for(url: str, folder: Path) -> None:
    """Until the document is served."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=30).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"no server:\n{(folder / 'server.log').read_text()}")


def run(
    folder: Path, url: str, world: dict[str, Any], who: str, *, smoke: bool, seed: int
) -> dict[str, Any]:
    """One identity's run; what the tool reports, and what it says where something was found."""
    mine = folder / who
    mine.mkdir()
    (mine / "openapi.json").write_text(json.dumps(document_for(url, world, who)))
    (mine / "schemathesis.toml").write_text(configuration(world, who))
    phases, examples = SMOKE if smoke else FULL
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603  our own interpreter
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--phases", phases, "--max-examples", str(examples), "--seed", str(seed)),
            *("--report", "json", "--report-json-path", "report.json", "--continue-on-failure"),
            *("--no-color", "--warnings", "off"),
        ],
        cwd=mine,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # noqa: TID251  handed on
    )
    report = mine / "report.json"
    if not report.exists():
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(report.read_text())
    return {"who": who, "took": time.monotonic() - started, "said": done.stdout, **found}


def document_for(url: str, world: dict[str, Any], who: str) -> dict[str, Any]:
    """The server's own document, with the one way of authentication that this identity has, and
    with objects that there are.

    Without a scheme the tool leaves the session's cookie alone, which it would else take away and
    still send; that there is nothing without a session is `tests/contracts/test_api.py`'s to show.
    """
    scheme = SCHEMES[who]
    found: dict[str, Any] = httpx.get(f"{url}/api/v1/openapi.json", timeout=30).json()
    schemes = found["components"].pop("securitySchemes")
    if scheme:
        found["components"]["securitySchemes"] = {scheme: schemes[scheme]}
    for item in found["paths"].values():
        for operation in item.values():
            operation["security"] = [{scheme: []}] if scheme else []
            real = re.search(r"[0-9a-f-]{36}", world["paths"][operation["operationId"]])
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "id" and real:
                    parameter["schema"] = {"type": "string", "enum": [real.group()]}
                if parameter["name"] == "If-Match" and who != "stranger":
                    parameter["schema"] = {"type": "string", "enum": ["*"]}
    return found


def configuration(world: dict[str, Any], who: str) -> str:
    """Headers of the identity: in a file, since arguments are for everybody to read."""
    # Ours is the status that RFC 6585 section 3 has for it, which the tool does not expect.
    lines = ["[checks.missing_required_header]", 'expected-statuses = ["4xx"]', "", "[headers]"]
    lines += [f"{json.dumps(k)} = {json.dumps(v)}" for k, v in world["identities"][who].items()]
    for name in NOT_IN_CHAINS:
        lines += ["", "[[operations]]", f'include-operation-id = "{name}"']
        lines += ["phases.stateful.enabled = false"]
    return "\n".join(lines) + "\n"


def tell(found: list[dict[str, Any]]) -> int:
    """The table, what was found, and the line for programs."""
    print(f"{'identity':<10}{'operations':>12}{'cases':>8}{'failures':>10}{'seconds':>9}")  # noqa: T201
    totals = {"cases": 0, "server_errors": 0, "schema_violations": 0}
    complete = True
    for one in found:
        cases = one["test_cases"]["generated"]
        counts = {failure["type"]: max(failure["count"], 1) for failure in one["failures"]}
        errors = counts.pop(SERVER_ERROR, 0)
        others = sum(counts.values()) + len(one["errors"])
        complete = complete and one["complete"]
        totals["cases"] += cases
        totals["server_errors"] += errors
        totals["schema_violations"] += others
        operations = f"{one['operations']['tested']}/{one['operations']['total']}"
        print(  # noqa: T201
            f"{one['who']:<10}{operations:>12}{cases:>8}{errors + others:>10}{one['took']:>9.0f}"
        )
        if errors or others:
            print(one["said"])  # noqa: T201
    print(json.dumps(totals))  # noqa: T201
    failed = totals["server_errors"] or totals["schema_violations"] or not complete
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
