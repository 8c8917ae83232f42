"""`manage.py tool_table`: the tools that agents are offered, from the code that offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand

from apps.mcp.tool import Tool, tools
from lensagents.settings.base import BASE_DIR

if TYPE_CHECKING:
    from argparse import ArgumentParser

PAGE = BASE_DIR / "docs" / "tools.md"
START = "<!-- the list is written by `manage.py tool_table --write` -->\n"
END = "<!-- end of the list -->\n"
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxProperties": "at most {} entries",
}


def listing() -> str:
    """An overview and a section for each tool, as Markdown."""
    parts = ["| tool | what it does | risk |\n|---|---|---|\n"]
    parts += [f"| [`{name}`](#{name}) | {tool.title} | {tool.risk} |\n" for name, tool in tools]
    parts += [_section(tool) for _, tool in tools]
    return "".join(parts)


def filled(page: str) -> str:
    """The page with the list of now between its marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{listing()}\n{END}{after}"


def _section(tool: Tool) -> str:
    head = f"\n## {tool.name}\n\n{tool.description}\n"
    properties = tool.schema["properties"]
    if not properties:
        return f"{head}\nIt takes no arguments.\n"
    lines = [_argument(name, part, tool) for name, part in properties.items()]
    table = "| argument | type | default | bounds | meaning |\n|---|---|---|---|---|\n"
    return f"{head}\n{table}{''.join(lines)}"


def _argument(name: str, part: dict[str, Any], tool: Tool) -> str:
    needed = name in tool.schema["required"]
    default = "required" if needed else f"`{part['default']}`"
    if part.get("default") == "":
        default = "empty"
    bounds = [text.format(part[key]) for key, text in _BOUNDS.items() if key in part]
    if part.get("minLength") == 1:
        bounds[0] = "not empty"
    if "enum" in part:
        bounds.append(", ".join(f"`{value}`" for value in part["enum"]))
    cells = [f"`{name}`", part["type"], default, "; ".join(bounds), part["description"]]
    return f"| {' | '.join(cells)} |\n"


class Command(BaseCommand):
    """Print the list, or write it into the page."""

    help = "Print the tools that agents are offered, or write them into docs/tools.md."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """`--write` writes the page instead of printing."""
        parser.add_argument("--write", action="store_true", help="write docs/tools.md")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        if options["write"]:
            PAGE.write_text(filled(PAGE.read_text()))
        else:
            self.stdout.write(listing())
