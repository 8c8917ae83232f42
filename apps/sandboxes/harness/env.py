"""The environment of every command in a sandbox: frozen, and holding no secret.

Tools find the proxy and our certificate authority by themselves: each variable here is the one
that some common client reads. Where a variable *replaces* a client's trust store it names the whole
bundle, where it *adds* to it, the sandbox's authority alone.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from apps.common.errors import Invalid
from apps.policies.core.sentinels import SENTINEL, name_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY_PORT: Final = 18080
WORKSPACE: Final = "/workspace"
CA_BUNDLE: Final = "/etc/lens/ca.pem"
SANDBOX_CA: Final = "/etc/lens/sandbox-ca.pem"
_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"

DEFAULT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": WORKSPACE,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/sh",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 the sandbox's own, seen by nobody else
        "HTTP_PROXY": _PROXY,
        "HTTPS_PROXY": _PROXY,
        "ALL_PROXY": _PROXY,
        "http_proxy": _PROXY,
        "https_proxy": _PROXY,
        "all_proxy": _PROXY,
        # Empty, so that no client's built-in exception applies.
        "NO_PROXY": "",
        "no_proxy": "",
        "NODE_USE_ENV_PROXY": "1",
        "SSL_CERT_FILE": CA_BUNDLE,
        "REQUESTS_CA_BUNDLE": CA_BUNDLE,
        "CURL_CA_BUNDLE": CA_BUNDLE,
        "GIT_SSL_CAINFO": CA_BUNDLE,
        "PIP_CERT": CA_BUNDLE,
        "AWS_CA_BUNDLE": CA_BUNDLE,
        "CARGO_HTTP_CAINFO": CA_BUNDLE,
        "NIX_SSL_CERT_FILE": CA_BUNDLE,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": CA_BUNDLE,
        "NODE_EXTRA_CA_CERTS": SANDBOX_CA,
        "DENO_CERT": SANDBOX_CA,
    }
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_MAX_TOTAL = 64 * 1024


def merged(*layers: Mapping[str, str]) -> dict[str, str]:
    """The default with `layers` on top, later ones first; nothing of sandboxd's own environment."""
    result = dict(DEFAULT)
    for layer in layers:
        result.update(layer)
    return result


def sentinels(bundle: Mapping[str, Any]) -> dict[str, str]:
    """What the bindings of a policy bundle put where tools look for a token.

    The bundle is one that the proxy has accepted. What is no sentinel all the same is left out:
    nothing but a sentinel enters the environment this way.
    """
    found: dict[str, str] = {}
    for binding in bundle.get("bindings") or ():
        name, text = str(binding.get("env_name", "")), str(binding.get("sentinel", ""))
        if SENTINEL.fullmatch(text) and not name_problem(name):
            found.setdefault(name, text)
    return found


def checked(value: object) -> dict[str, str]:
    """`value` as environment variables; raises Invalid (field `env`) with what is wrong."""
    if not isinstance(value, dict):
        raise Invalid("env must be an object of strings", field="env")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Invalid("env has a name that is no identifier", field="env")
        if not isinstance(text, str) or "\0" in text:
            raise Invalid(f"env.{name} must be a string without NUL", field="env")
    if sum(len(n) + len(t) for n, t in value.items()) > _MAX_TOTAL:
        raise Invalid(f"env is larger than {_MAX_TOTAL} characters", field="env")
    return dict(value)
