"""Sentinels: what an agent finds in an environment variable in place of a credential.

Many command-line tools refuse to start without a token in a variable of their own (`GITHUB_TOKEN`).
A binding may name one; commands of the sandbox then see a text that says what it is and opens
nothing. Whatever header the tool makes of it is taken off and the credential put in its place.
"""

from __future__ import annotations

import re

PREFIX = "lens-sentinel-"
NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
SENTINEL = re.compile(rf"{PREFIX}[a-z0-9-]{{1,63}}")

# By these, programs find the way out, whom to trust, their files and their libraries.
RESERVED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TMPDIR", "PWD", "OLDPWD"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NODE_USE_ENV_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CURL_HOME"),
        *("GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE"),
        *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NODE_EXTRA_CA_CERTS", "DENO_CERT"),
        *("IFS", "ENV", "BASH_ENV", "NODE_OPTIONS", "NODE_PATH", "PYTHONPATH", "PYTHONHOME"),
        *("PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYLIB", "RUBYOPT", "JAVA_TOOL_OPTIONS"),
        *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH", "GIT_SSH_COMMAND"),
    }
)
_RESERVED_PREFIXES = ("LD_", "DYLD_", "GLIBC_", "MALLOC_", "LENS_")


def sentinel(slug: str) -> str:
    """The text that stands for the credential with this slug."""
    return PREFIX + slug


def name_problem(name: str) -> str:
    """Why no sentinel can be put into a variable of this name, as a sentence; "" when one can."""
    if not NAME.fullmatch(name):
        return (
            "An environment variable is named with capitals, digits and `_`, as in `GITHUB_TOKEN`."
        )
    if name in RESERVED or name.startswith(_RESERVED_PREFIXES):
        return (
            f"`{name}` decides how programs in the sandbox run. Name the variable in which the "
            "tool looks for its token."
        )
    return ""
