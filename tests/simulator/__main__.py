"""`make simulator`: the simulator says what the enforcers do. One line of JSON at the end.

Random policies are saved through the services. For each, random requests are asked of the Simulate
page of a running platform, and really sent: through a running egress proxy (a process of its own
that got the compiled bundle over its control channel) to recording upstreams, and to the running
MCP endpoint. Compared are the action, and for refusals layer, rule and reason; for what is let
through, the credential that arrived and whether the agent's own one was removed.

10,000 pairs of policy and request; `--smoke` takes a few hundred. The seed is fixed unless given.
"""

# ruff: noqa: T201  a command that talks to people
from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

SEED = 20261121
EGRESS = 44
POLICIES, SMOKE = 200, 7


def main() -> int:
    """0 when nobody disagreed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few hundred pairs")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--policies", type=int, default=0)
    options = parser.parse_args()
    rounds = options.policies or (SMOKE if options.smoke else POLICIES)
    os.environ["DJANGO_SETTINGS_MODULE"] = "lensagents.settings.test"  # noqa: TID251  a program
    import django  # noqa: PLC0415  after its settings are named

    django.setup()
    from django.test.runner import DiscoverRunner  # noqa: PLC0415

    from tests import tenancy  # noqa: PLC0415

    tenancy.begin()
    runner = DiscoverRunner(verbosity=0, interactive=False)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            pairs, disagreements, letthrough = _compare(Path(folder), stack, rounds, options.seed)
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    found = {
        "pairs": pairs,
        "policies": rounds,
        "let_through": letthrough,
        "disagreements": disagreements,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(found))
    return int(disagreements > 0)


def _compare(folder: Path, stack: ExitStack, rounds: int, seed: int) -> tuple[int, int, int]:
    from tests.simulator.chance import TOOLS, documents  # noqa: PLC0415  after django.setup
    from tests.simulator.edges import agree, mcp_verdicts  # noqa: PLC0415
    from tests.simulator.stage import Question, build  # noqa: PLC0415

    stage = build(folder, stack, seed)
    pairs = disagreements = let_through = 0
    for number in range(rounds):
        stage.change()
        questions = stage.chance.questions(EGRESS)
        simulated = stage.page.ask([*questions, *(Question(tool=tool) for tool in TOOLS)])
        real = [stage.egress.ask(question) for question in questions]
        listed = asyncio.run(mcp_verdicts(stage.base, stage.token, TOOLS))
        wrong = [
            (question.line, said, done)
            for question, said, done in zip(questions, simulated, real, strict=False)
            if not agree(said, done)
        ]
        wrong += [
            (tool, said, listed[tool])  # type: ignore[misc]  # only to be printed
            for tool, said in zip(TOOLS, simulated[EGRESS:], strict=True)
            if said.action != listed[tool]
        ]
        for line, said, done in wrong:
            print(f"policy {number}: {line}\n  simulated {said}\n  really    {done}")
        if wrong:
            print("  " + "\n  ".join(documents(stage.world)))
        pairs += len(simulated)
        disagreements += len(wrong)
        let_through += sum(one.action in ("allow", "direct", "open") for one in real)
        if sys.stdout.isatty():
            print(f"\r{pairs} pairs", end="", flush=True)
    return pairs, disagreements, let_through


if __name__ == "__main__":
    sys.exit(main())
