"""`make lint`'s look at the documentation: what a page names must exist.

Checked: relative links and images in every Markdown page, `make` targets, `manage.py` commands, and
the tests that SECURITY.md names.
That every setting is documented and that generated tables are fresh is tested where they are made.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"(?:^|[`\s])make ([a-z][a-z-]+)(?=[`\s]|$)", re.MULTILINE)
MANAGE = re.compile(r"manage\.py ([a-z_]+)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)?::(test_\w+)`")
DJANGO_COMMANDS = {"migrate", "help", "check", "collectstatic", "shell", "makemigrations"}


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def problems(page: Path) -> list[str]:
    """What is wrong with one page, a sentence each."""
    text = page.read_text()
    name = page.relative_to(ROOT)
    found = [
        f"{name}: link to {target}, which does not exist"
        for target in LINK.findall(text)
        if not target.startswith(("http://", "https://", "mailto:"))
        and not (page.parent / target).exists()
    ]
    code = "\n".join(CODE.findall(text))
    found += [
        f"{name}: `make {target}` is no target"
        for target in set(MAKE.findall(code)) - _make_targets()
    ]
    found += [
        f"{name}: `manage.py {command}` is no command"
        for command in set(MANAGE.findall(code)) - _commands()
    ]
    return found + [f"{name}: {problem}" for problem in _missing_tests(text)]


def _missing_tests(text: str) -> list[str]:
    """Tests that do not exist. `::name` alone is in the file named before it."""
    missing, file = [], ""
    for named, test in TEST.findall(text):
        file = named or file
        path = ROOT / file
        if not path.is_file() or f"def {test}(" not in path.read_text():
            missing.append(f"{file}::{test} is no test")
    return missing


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _commands() -> set[str]:
    found = {path.stem for path in ROOT.glob("**/management/commands/[a-z]*.py")}
    return found | DJANGO_COMMANDS


def main() -> int:
    """Print every problem; 1 when there is one."""
    found = [problem for page in pages() for problem in problems(page)]
    for problem in found:
        print(problem)  # noqa: T201  a command's output
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
