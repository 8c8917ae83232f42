"""Run the catalogue: `make attacks`. A table by family, then one line of JSON.

Without arguments: every case against a real sandbox with its proxy, in each kind of isolation that
it is about, then the proxy's families against stock proxy.py (reported, not judged). `--mutants`
also switches each check off in turn and asks that some case notices. `--smoke` takes every fifth
case of a family, and its controls, in the kind `namespace`.
"""

# ruff: noqa: T201  a command that talks to people
from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.report import table
from tests.attacks.catalogue import KINDS, ProxyCase, life_cases, proxy_cases, sandbox_cases
from tests.attacks.elsewhere import NOT_GIVEN
from tests.attacks.mutants import MUTANTS, Mutant
from tests.attacks.rigs import Caged, Stock
from tests.attacks.world import enter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.attacks.catalogue import LifeCase, SandboxCase

    Case = ProxyCase | SandboxCase | LifeCase

# Families about what stock proxy.py does not have.
_NOT_ITS = ("credential", "platform")
_EVERY = 5
_SETTLE = 0.03


def main() -> int:
    """0 when no case failed and no mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--family", action="append", help="only this one; may be given again")
    parser.add_argument("--kind", action="append", choices=KINDS, help="of isolation; as above")
    parser.add_argument("--verbose", action="store_true", help="say why a case failed")
    options = parser.parse_args()
    if os.geteuid():
        sys.stderr.write("make attacks builds sandboxes as root\n")
        return 2
    if (code := enter("tests.attacks")) is not None:
        return code
    cases: list[Case] = [*proxy_cases(), *sandbox_cases(), *life_cases()]
    if options.family:
        cases = [case for case in cases if case.family in options.family]
    chosen = _sample(cases) if options.smoke else cases
    report = Report(chosen)
    for kind in options.kind or (KINDS[:1] if options.smoke else KINDS):
        mine = [case for case in chosen if kind in case.kinds]
        print(f"  {kind}: {len(mine)} cases", flush=True)
        with _folder() as folder, contextlib.ExitStack() as stack:
            failed = run(Caged(folder, stack, kind), mine, verbose=options.verbose)
        report.ours |= {(kind, name): why for name, why in failed.items()}
        report.count += len(mine)
        for name, why in NOT_GIVEN.get(kind, {}).items():
            print(f"    not given by {kind}: {name} ({why})")
    if not options.smoke:
        report.stock = against_stock(chosen)
    if options.mutants:
        for mutant in MUTANTS if not options.family else _of(options.family):
            report.mutants[mutant.name] = killed(mutant, cases)
            print(
                f"  mutant {mutant.name}: {report.mutants[mutant.name] or 'SURVIVED'}", flush=True
            )
    return report.show()


class Report:
    """What happened, and how it is told."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.count = 0
        self.ours: dict[tuple[str, str], str] = {}
        self.stock: dict[str, str] | None = None
        self.mutants: dict[str, str] = {}

    def show(self) -> int:
        """Print; the exit code."""
        total = Counter(case.family for case in self.cases)
        by_name = {case.name: case.family for case in self.cases}
        failed = Counter(by_name[name] for _, name in self.ours)
        stock = Counter(by_name[name] for name in self.stock or ())
        rows = [
            [family, count, failed[family], "-" if self.stock is None else stock[family]]
            for family, count in total.items()
        ]
        table("attacks", ["family", "cases", "failed", "stock failed"], rows)
        for (kind, name), why in self.ours.items():
            print(f"  FAILED {kind}: {by_name[name]}: {name}: {why}")
        controls = {case.name for case in self.cases if case.control}
        for name in sorted(controls & set(self.stock or ())):
            print(f"  stock refuses what is allowed: {name}: {(self.stock or {})[name]}")
        survived = [name for name, killer in self.mutants.items() if not killer]
        print(
            json.dumps(
                {
                    "cases": self.count,
                    "failed": len(self.ours),
                    "stock_failed": None if self.stock is None else len(self.stock),
                    "mutants": len(self.mutants),
                    "mutants_survived": len(survived),
                }
            )
        )
        return 1 if self.ours or survived else 0


def run(
    rig: Caged, cases: Sequence[Case], *, verbose: bool = False, first: bool = False
) -> dict[str, str]:
    """Cases that failed, and why; with `first` only until one does."""
    failed: dict[str, str] = {}
    for case in cases:
        why = _attempt(rig, case)
        if why:
            failed[case.name] = why
            if verbose:
                print(f"  {case.family}: {case.name}: {why}", flush=True)
            if first:
                break
    return failed


def _attempt(rig: Caged, case: Case) -> str:
    """ "" or why the case failed."""
    rig.fresh()
    try:
        case.run(rig)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  whatever goes wrong is a failed case
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def against_stock(cases: Sequence[Case]) -> dict[str, str]:
    """Cases in which stock proxy.py let an attack through, or an allowed request not.

    It has its own answers, so an attack is judged by what reached an upstream. Credentials and
    audit are not its business and are left out.
    """
    failed: dict[str, str] = {}
    mine = [one for one in cases if isinstance(one, ProxyCase) and one.family not in _NOT_ITS]
    while mine:
        with _folder() as folder, contextlib.ExitStack() as stack:
            rig = Stock(folder, stack)
            stuck = False
            while mine and not stuck:
                case = mine.pop(0)
                why = _against_stock(rig, case)
                if why:
                    failed[case.name] = why
                stuck = not rig.answers()
    return failed


def _against_stock(rig: Stock, case: ProxyCase) -> str:
    """ "" or why the case counts as failed."""
    rig.fresh()
    why = ""
    try:
        case.run(rig)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  judged below
        why = f"{type(error).__name__}: {error}"[:200]
    time.sleep(_SETTLE)
    reached = not rig.untouched()
    if (why and case.reaches) or (reached and not case.reaches):
        return why or "reached the upstream"
    return ""


def killed(mutant: Mutant, cases: Sequence[Case]) -> str:
    """The case that notices the missing check, or ""."""
    mine = [case for case in cases if case.family in mutant.families]
    try:
        with _folder() as folder, contextlib.ExitStack() as stack:
            failed = run(Caged(folder, stack, mutant=mutant.name), mine, first=True)
    except AssertionError:
        return "the self-test: no sandbox is created"
    return next(iter(failed), "")


def _of(families: Sequence[str]) -> list[Mutant]:
    return [mutant for mutant in MUTANTS if set(mutant.families) & set(families)]


def _sample(cases: Sequence[Case]) -> list[Case]:
    """Every fifth of each family, and all controls."""
    seen: Counter[str] = Counter()
    chosen = []
    for case in cases:
        if case.control or seen[case.family] % _EVERY == 0:
            chosen.append(case)
        seen[case.family] += 1
    return chosen


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that the proxies' users can pass."""
    place = Path(tempfile.mkdtemp(prefix="lens-attacks-"))
    place.chmod(0o711)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
