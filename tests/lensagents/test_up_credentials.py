"""A credential on its whole way: vault, policy, broker, proxy, upstream; what the agent sees."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.factories import SECRET_VALUE
from tests.lensagents.test_up import shell
from tests.platform import crossable_folder, running_platform
from tests.twins.ca import TwinCa
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.platform import RunningPlatform

pytestmark = [pytest.mark.slow, pytest.mark.isolation]

HOST = "api.github.com"
# As `gh` does it: no token, no start; and the token goes into a header of its own making.
TOOL = (
    'test -n "$GITHUB_TOKEN" || { echo "set GITHUB_TOKEN"; exit 4; }; '
    f'curl -sS -H "Authorization: token $GITHUB_TOKEN" https://{HOST}/user >/dev/null && '
    'echo "token $GITHUB_TOKEN"'
)
MAKE = """
from dataclasses import replace
from apps.policies.services import policy_save
from apps.policies.documents import document_of
from tests import factories
world = factories.acme()
document = document_of(world.policy)
(binding,) = document.bindings
document = replace(document, bindings=(replace(binding, env_name="GITHUB_TOKEN"),))
policy_save(world.org, document=document, policy=world.policy, actor=world.admin)
print("token", world.minted.value)
"""
ROTATE = """
from apps.connections.models import Credential
from apps.connections.services import credential_update
from apps.orgs.types import SYSTEM
credential_update(Credential.objects.get(), value="rotated-0123456789abcdef", actor=SYSTEM)
"""
UNBIND = """
from dataclasses import replace
from apps.orgs.types import SYSTEM
from apps.policies.models import Policy
from apps.policies.services import policy_save
from apps.policies.documents import document_of
policy = Policy.objects.get(kind="team")
document = replace(document_of(policy), bindings=())
policy_save(policy.org, document=document, policy=policy, actor=SYSTEM)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that the users of proxies can pass."""
    made = crossable_folder()
    yield made
    shutil.rmtree(made)


def test_a_tool_that_insists_on_a_token_starts_and_the_real_one_arrives(folder: Path) -> None:
    ca = TwinCa()
    ca_file = folder / "twin-ca.pem"
    ca_file.write_text(ca.pem)
    ca_file.chmod(0o644)
    with UpstreamTwin(ca.issue(folder, HOST)) as upstream:
        env = {
            "LENS_ADDRESS_MAP": json.dumps({HOST: ["127.0.0.1", upstream.port]}),
            "LENS_UPSTREAM_CA_FILE": str(ca_file),
        }
        with running_platform(data_dir=folder, env=env) as platform:
            token = platform.shell(MAKE).split("token ")[1].strip()
            assert use(platform, token) == "token lens-sentinel-github"
            (seen,) = upstream.seen
            assert seen.header("authorization") == f"Bearer {SECRET_VALUE}"
            assert b"sentinel" not in upstream.raw
            listed = asyncio.run(shell(platform, token, "env"))
            assert SECRET_VALUE not in listed
            assert "GITHUB_TOKEN=lens-sentinel-github" in listed

            platform.shell(ROTATE)
            time.sleep(1)
            upstream.reset()
            use(platform, token)
            assert upstream.seen[-1].header("authorization") == "Bearer rotated-0123456789abcdef"

            platform.shell(UNBIND)
            time.sleep(1)
            upstream.reset()
            without = asyncio.run(shell(platform, token, f"({TOOL}); echo $?"))
            assert without == "set GITHUB_TOKEN\n4"
            assert upstream.seen == []
            assert SECRET_VALUE not in platform.output()


def use(platform: RunningPlatform, token: str) -> str:
    """What the tool says."""
    return asyncio.run(shell(platform, token, TOOL))
