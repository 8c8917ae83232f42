"""Every example of `docs/api.md` is run as it stands, against a live server."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.cache import cache

from apps.agents import services as agents
from apps.policies.documents import PolicyDocument, ToolRuleDoc
from apps.policies.services import policy_save
from lensagents.api import RESOURCES
from tests import factories

if TYPE_CHECKING:
    from pytest_django.live_server_helper import LiveServer

pytestmark = [pytest.mark.django_db(transaction=True)]
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"```sh\n# (\d{3})\n((?:(?!```).*\n)+)```", PAGE)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == PAGE.count("```sh") - 1 == 9


def test_the_page_names_every_resource() -> None:
    for view in RESOURCES:
        assert f"`/{view.resource}" in PAGE, view.resource


def test_every_example_answers_as_the_page_says(live_server: LiveServer, tmp_path: Path) -> None:
    cache.clear()
    acme = factories.acme()
    agent = agents.agent_create(
        acme.org, team=acme.other_team, slug="lead", name="Lead", actor=acme.admin
    )
    document = PolicyDocument(name="Leads", team=acme.other_team, tools=(ToolRuleDoc("*"),))
    policy = policy_save(acme.org, document=document, actor=acme.admin).policy
    variables = {
        "LENS": live_server.url,
        "TOKEN": agents.token_create(agent, name="docs", actor=acme.admin).value,
        "PROJECT": str(acme.project.pk),
        "POLICY": str(policy.pk),
        "TEAM": str(acme.other_team.pk),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CURL_HOME": str(tmp_path),
    }
    (tmp_path / ".curlrc").write_text('write-out = "%{stderr}status %{http_code}\\n"\n')
    script = "".join(f"{example}\n" for _, example in EXAMPLES)
    done = subprocess.run(  # noqa: S603  the page's own text
        ["/bin/bash", "-euc", script],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.findall(r"status (\d+)", done.stderr)
    assert found == [status for status, _ in EXAMPLES], done.stdout + done.stderr
    assert "s3cret" not in done.stdout + (tmp_path / "credential.json").read_text()
