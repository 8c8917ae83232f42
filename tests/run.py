"""`make test`: everything on SQLite, then what touches the database on PostgreSQL and Redis.

Both passes run even when the first fails, so that one run tells everything. The servers of the
second pass are private instances on free ports, started and stopped by `tests.services`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

# They need a browser and packages of npm, and have make targets of their own.
JOURNEYS = ("tests/journeys/pages", "tests/journeys/sso")


def main() -> int:
    """Run both passes; 0 only when both passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="2")
    parser.add_argument("pytest_args", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    extra = [arg for arg in options.pytest_args if arg != "--"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", options.workers, *extra]
    pytest += [f"--ignore={folder}" for folder in JOURNEYS]
    results = [
        _run("all tests on SQLite", pytest),
        _run(
            "database tests on PostgreSQL and Redis",
            [sys.executable, "-m", "tests.services", "run", "--", *pytest, "-m", "database"],
        ),
    ]
    return int(any(results))


def _run(what: str, command: list[str]) -> int:
    print(f"\n== {what}", flush=True)  # noqa: T201  a command's output
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode  # noqa: S603  our own interpreter
    took = time.monotonic() - started
    print(f"== {what}: exit {code} after {took:.0f} s", flush=True)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
