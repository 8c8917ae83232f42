"""The pages about tools and errors say what the code does."""

from __future__ import annotations

import re

from apps.mcp import asgi
from apps.mcp.tool import tools
from lensagents.management.commands import tool_table
from lensagents.settings.base import BASE_DIR

MCP = (BASE_DIR / "docs" / "mcp.md").read_text()


def test_the_list_of_tools_is_fresh() -> None:
    page = tool_table.PAGE.read_text()
    assert tool_table.filled(page) == page, "run `manage.py tool_table --write`"


def test_every_tool_has_its_section() -> None:
    page = tool_table.PAGE.read_text()
    for name, tool in tools:
        assert f"\n## {name}\n" in page
        assert tool.description in page


def test_the_page_on_the_endpoint_names_its_bounds_and_errors() -> None:
    assert f"| open sessions of one token | {asgi.MAX_SESSIONS} |" in MCP
    assert asgi.MAX_BODY == 4 * 1024 * 1024
    source = (BASE_DIR / "apps" / "mcp" / "asgi.py").read_text()
    codes = set(re.findall(r'(?:code=|\d{3}, )"([a-z_]+)"', source))
    assert codes
    for code in codes:
        assert f"`{code}`" in MCP, code
