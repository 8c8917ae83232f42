"""sandboxd with one check switched off: `python -m tests.attacks.mutated NAME --config FILE`."""

from __future__ import annotations

import sys

from apps.sandboxes.harness import sandboxd
from tests.attacks.mutants import MUTANTS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    next(mutant for mutant in MUTANTS if mutant.name == name).apply()
    sys.exit(sandboxd.main())
