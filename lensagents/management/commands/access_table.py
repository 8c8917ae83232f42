"""`manage.py access_table`: who may do what, as a table, from the code that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand

from apps.orgs.access import ROLES, VERBS
from lensagents.settings.base import BASE_DIR

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from pathlib import Path

PAGE = BASE_DIR / "docs" / "access.md"
START = "<!-- the table is written by `manage.py access_table --write` -->\n"
END = "<!-- end of the table -->\n"


def table() -> str:
    """The table as Markdown: a line a verb, a column a role."""
    head = ["action", *(f"`{role}`" for role in ROLES)]
    lines = [_line(head), _line(["---"] * len(head))]
    for verb, roles in VERBS.items():
        lines.append(_line([f"`{verb}`", *("yes" if role in roles else "" for role in ROLES)]))
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """The page with the table of now between its marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


class Command(BaseCommand):
    """Print the table, or write it into the page."""

    help = "Print who may do what, or write it into docs/access.md."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """`--write` writes the page instead of printing."""
        parser.add_argument("--write", action="store_true", help="write docs/access.md")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        if options["write"]:
            _write(PAGE)
        else:
            self.stdout.write(table())


def _write(page: Path) -> None:
    page.write_text(filled(page.read_text()))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
