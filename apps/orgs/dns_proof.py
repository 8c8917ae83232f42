"""TXT records, asked of the machine's own name servers."""

from __future__ import annotations

import dns.exception
import dns.resolver

from apps.common.errors import Upstream

SECONDS = 5.0
MAX_RECORDS = 100


def txt_records(name: str) -> list[str]:
    """The TXT records of a name, none where there are none; Upstream when nobody answers."""
    try:
        answer = _resolver().resolve(name, "TXT", lifetime=SECONDS, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except dns.exception.DNSException:
        raise Upstream(f"The name servers do not answer for {name}. Try again later.") from None
    return [
        b"".join(record.strings).decode("ascii", "replace") for record in list(answer)[:MAX_RECORDS]
    ]


def _resolver() -> dns.resolver.Resolver:
    return dns.resolver.Resolver()
