"""Where a credential may go: stricter than a rule, and never at odds with what may be bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import Invalid
from apps.common.hosts import parse_pattern
from apps.common.shared_domains import SHARED_DOMAINS
from apps.connections.hosts import checked_hosts
from apps.policies.core.bindings import binding_refusal

LABEL = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join) | st.sampled_from(SHARED_DOMAINS)
PATTERNS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "*.", "*", "x."]),
    NAMES,
    st.sampled_from(["", ":443", ":8443", ":0"]),
) | st.sampled_from(["*", "*:443", "0.0.0.0/0", "::/0", "10.0.0.1", "[::1]:80", "1.2.3.4/32"])


def accepted(pattern: str) -> bool:
    try:
        return checked_hosts([pattern], static=True) == [pattern]
    except Invalid as refused:
        assert refused.field == "allowed_hosts[0]"  # noqa: PT017  the same for every refusal
        return False


@given(PATTERNS)
def test_what_is_allowed_can_be_bound(pattern: str) -> None:
    if accepted(pattern):
        assert binding_refusal(pattern, [pattern]) == ""


@given(PATTERNS)
def test_no_wildcard_reaches_strangers(pattern: str) -> None:
    if accepted(pattern):
        parsed = parse_pattern(pattern)
        assert not parsed.anything
        assert parsed.network is None or parsed.network.num_addresses == 1
        assert parsed.suffix not in (".com", ".co.uk", ".uk")
        for domain in SHARED_DOMAINS:
            under = f".{domain}"
            assert not (parsed.suffix and (parsed.suffix + "$").endswith(f"{under}$"))
            assert not (parsed.suffix and under.endswith(parsed.suffix))


@pytest.mark.parametrize("domain", SHARED_DOMAINS)
def test_every_shared_domain_is_refused_as_wildcard(domain: str) -> None:
    assert not accepted(f"*.{domain}")
    assert not accepted(f"*.sub.{domain}")
    assert not accepted(f"*.{domain}:8443")


@pytest.mark.parametrize("domain", ["amazonaws.com", "amazonaws.com.cn", "api.aws"])
def test_no_static_secret_for_aws(domain: str) -> None:
    """Whatever way it is written, with the reason."""
    for text in ("{}", "s3.{}", "S3.{}", "s3.{}.", "s3.{}:443", "*.{}", "*.s3.{}", "*.{}:8443"):
        with pytest.raises(Invalid, match="AWS itself takes signed requests only") as refused:
            checked_hosts(["api.example.com", text.format(domain)], static=True)
        assert refused.value.field == "allowed_hosts[1]"
    for text in ("{}.example.com", "not{}"):
        assert accepted(text.format(domain))


def test_a_kind_that_signs_may_go_where_strangers_are() -> None:
    """A signature is good for one request to one host: nobody can use it again."""
    assert checked_hosts(["*.amazonaws.com"], static=False) == ["*.amazonaws.com"]
    with pytest.raises(Invalid):
        checked_hosts(["*"], static=False)
