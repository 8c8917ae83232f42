"""What the zygote loads, so that no proxy has to."""

from __future__ import annotations

from tests.apps.sandboxes.harness.conftest import program

# In a process of its own: here, other tests have loaded everything.
PREPARE = """
import sys
from pathlib import Path
from apps.sandboxes.harness import proxies, zygote
from apps.sandboxes.harness.config import Config, Limits
from apps.sandboxes.harness.sandbox import Sandbox
from apps.sandboxes.harness.spawn import Wanted
config = Config(Path("/s"), Path("/s"), Path("/b"), address_map={"a": ("127.0.0.1", 1)})
wanted = Wanted("s", "t", {}, {}, {}, Limits())
sandbox = Sandbox("s", 0, Limits(), {}, "/s")
zygote.preparation(None)()
loaded = set(sys.modules)
from apps.proxy.egress.tls.ca import Authority
zygote.egress_config(proxies.configuration(config, "namespace", sandbox, wanted))
Authority().context("a.example")
print(*(set(sys.modules) - loaded))
"""


def test_a_proxy_has_nothing_left_to_load() -> None:
    done = program("-c", PREPARE)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"\n"
