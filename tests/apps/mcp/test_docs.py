"""The pages about tools and errors say what the code does."""

from __future__ import annotations

import re

from apps.mcp import host, server
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
    assert f"| open sessions of one token | {host.MAX_SESSIONS} |" in MCP
    assert f"| calls of one agent under way | {server.MAX_CALLS} |" in MCP
    assert f"| calls of one organization under way | {server.MAX_ORG_CALLS} |" in MCP
    assert host.MAX_BODY == 4 * 1024 * 1024
    sources = [BASE_DIR / "apps" / "mcp" / name for name in ("asgi.py", "gate.py", "server.py")]
    text = "".join(source.read_text() for source in sources)
    codes = set(re.findall(r'(?:code=|\d{3},\s+)"([a-z_]+)"', text)) - {"session_of_other_token"}
    assert len(codes) > 5
    for code in codes:
        assert f"`{code}`" in MCP, code
