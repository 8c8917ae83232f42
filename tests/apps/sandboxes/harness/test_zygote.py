"""What the zygote loads, so that no proxy has to."""

from __future__ import annotations

from tests.apps.sandboxes.harness.conftest import program

# In a process of its own: here, other tests have loaded everything.
PREPARE = """
import sys
from apps.sandboxes.harness import zygote
zygote.preparation(None)()
loaded = set(sys.modules)
from apps.proxy.egress.tls.ca import Authority
zygote.egress_config({
    "sandbox_id": "s", "sandbox_token": "t", "broker_socket": "/b", "spool_dir": "/s",
    "identity": {}, "address_map": {"a": ["127.0.0.1", 1]}, "upstream_ca_file": None,
    "explain_url": "",
})
Authority().context("a.example")
print(*(set(sys.modules) - loaded))
"""


def test_a_proxy_has_nothing_left_to_load() -> None:
    done = program("-c", PREPARE)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"\n"
