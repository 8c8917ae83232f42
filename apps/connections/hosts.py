"""Where a credential may ever be sent: the list that its owner sets.

Stricter than the patterns of domain rules: exact hosts and `*.suffix`, each with a port or without.
`*` and address ranges name hosts that nobody has looked at, so no secret goes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.common.errors import Invalid
from apps.common.hosts import HostPattern, PatternError, parse_pattern
from apps.common.shared_domains import registry, shared_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HOSTS = 100
FIELD = "allowed_hosts"
# AWS's own services, in its partitions. What customers run there (`on.aws`, CloudFront) is theirs.
_SIGNED_ONLY = ("amazonaws.com", "amazonaws.com.cn", "api.aws")


def checked_hosts(patterns: Iterable[str], *, static: bool) -> list[str]:
    """The patterns without duplicates, in their order. Invalid with the first that must not be."""
    found = list(dict.fromkeys(patterns))
    if not found:
        raise Invalid("Name at least one host that may receive the credential.", field=FIELD)
    if len(found) > MAX_HOSTS:
        raise Invalid(f"A credential has at most {MAX_HOSTS} hosts.", field=FIELD)
    for index, text in enumerate(found):
        problem = _problem(text, static=static)
        if problem:
            raise Invalid(f"“{text[:100]}”: {problem}", field=f"{FIELD}[{index}]")
    return found


def _problem(text: str, *, static: bool) -> str:
    try:
        pattern = parse_pattern(text)
    except PatternError as error:
        return str(error)
    if pattern.anything:
        return "A credential is never sent to any host whatsoever. Name the hosts."
    if pattern.network is not None and pattern.network.num_addresses > 1:
        return "A credential is not sent to a range of addresses. Name the hosts."
    if registry(pattern):
        return "Anybody can register a name under it. Name the domain, too."
    return _shared_problem(pattern) if static else ""


def signed_only_problem(pattern: HostPattern) -> str:
    """Why a static secret has no business at these hosts of AWS, as a sentence; "" elsewhere."""
    name = pattern.name or pattern.suffix[1:]
    for domain in _SIGNED_ONLY:
        if name == domain or name.endswith(f".{domain}"):
            return (
                f"A static secret is not sent to {domain}, where anybody can have a name and AWS "
                "itself takes signed requests only. Use the service's own domain."
            )
    return ""


def _shared_problem(pattern: HostPattern) -> str:
    domain, problem = shared_domain(pattern), signed_only_problem(pattern)
    if problem:
        return problem
    if domain:
        return (
            f"Anybody can register a name under {domain} and would receive the secret. "
            "Name the exact host."
        )
    return ""
