"""What must not reach the audit trail, and what must stay readable there."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.mcp.core.secrets import MAX_TEXT, MAX_TOTAL, mask, mask_text

SECRETS = {
    "platform token": "lns_" + "aB3_-" * 8 + "xyz",
    "sandbox token": "lnsb_" + "aB3_-" * 8 + "xyz",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "GitHub": "ghp_" + "x1Y2" * 9,
    "GitHub fine-grained": "github_pat_" + "11ABCDE0Y0" * 5,
    "GitLab": "glpat-" + "a1b2c3d4e5" * 2,
    "Slack": "xoxb-1234567890-abcdefghij",
    "OpenAI": "sk-proj-" + "a1B2" * 10,
    "Google": "AIza" + "a1B2c" * 7,
    "Stripe": "sk_live_" + "a1B2" * 6,
    "npm": "npm_" + "a1B2" * 9,
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabc\n-----END",
}
ASSIGNED = (
    "curl -H 'Authorization: Bearer {}' https://x.example",
    "curl -H 'Authorization: Basic {}' https://x.example",
    "git clone https://user:{}@git.example/x",
    "export PASSWORD={}",
    "mysql --password={} -u root",
    "psql --password {} -U me",
    'api_key: "{}"',
    "API_KEY='{}'",
    '{{"secret": "{}"}}',
    "ACCESS-KEY={}",
    "curl -u admin:{} https://x.example",
    "curl -sSu 'admin:{}' https://x.example",
    "curl https://x.example/?access_token={}",
    "curl 'https://x.example/?a=1&token={}&b=2'",
    "curl https://x.example/?key={}",
    "GITHUB_TOKEN={} gh pr list",
    "SECRET_TOKEN={}",
    "aws_session_token={}",
    "aws_session_token = {}",
    "mysql -u root -p{} shop",
    "mysqldump -p{}",
    "curl -H 'X-Vault-Token: {}' https://x.example",
)
SPACED = (
    "PGPASSWORD='{}' psql",
    'PGPASSWORD="{}" psql',
    "mysql -u root -p'{}' shop",
    'curl -u "admin:{}" https://x.example',
)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("around", ["{}", "echo {} > f", "x={};", "\n{}\n", "«{}»"])
def test_a_known_form_is_masked(secret: str, around: str) -> None:
    shown = mask_text(around.format(secret))
    assert secret not in shown
    assert secret[-12:] not in shown or "END" in secret
    assert "[" in shown


@pytest.mark.parametrize("text", ASSIGNED)
def test_what_follows_a_telling_name_is_masked(text: str) -> None:
    shown = mask_text(text.format("hunter2-hunter2"))
    assert "hunter2" not in shown
    assert shown.partition("[")[0] == text.partition("{}")[0].replace("{{", "{")


@pytest.mark.parametrize("text", SPACED)
def test_a_quoted_secret_is_masked_to_its_end(text: str) -> None:
    shown = mask_text(text.format("p@ss word $x"))
    assert "p@ss" not in shown
    assert "word" not in shown.replace("password", "")


@pytest.mark.parametrize(
    "text",
    [
        "ls -la /workspace",
        "echo $PASSWORD",
        "curl https://api.github.com/repos/a/b?page=2",
        "export PASSWORD=$(cat f)",
        "pip install requests==2.32.3",
        "kubectl get secret",
        "docker run -u 1000:1000 image",
        "sort -u names",
        "mkdir -p /a && psql -p 5432",
        "mysql -h db -P 3306 -u root shop",
        "run --max_tokens=4096",
        'GITHUB_TOKEN="$(cat f)" gh pr list',
        "curl 'https://x.example/?keyword=sale&page=2'",
        "git commit -m 'Fix the password form'",
    ],
)
def test_ordinary_commands_stay_as_they_are(text: str) -> None:
    assert mask_text(text) == text


def test_no_half_of_a_secret_survives_at_the_cut() -> None:
    secret = SECRETS["GitHub"]
    shown = mask_text("a" * (MAX_TEXT - 10) + " " + secret)
    assert "ghp_" not in shown
    assert str(MAX_TEXT - 9 + len(secret)) in shown


def test_headers_are_masked_by_name() -> None:
    headers = {"Authorization": "ApiKey q", "X-Api-Key": "q", "cookie": "q", "Accept": "q"}
    headers |= {"X-Vault-Token": "q", "X-My-Secret": "q"}
    assert mask({"headers": headers}) == {
        "headers": {
            "Authorization": "[secret]",
            "X-Api-Key": "[secret]",
            "cookie": "[secret]",
            "Accept": "q",
            "X-Vault-Token": "[secret]",
            "X-My-Secret": "[secret]",
        }
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values, st.sampled_from(sorted(SECRETS.values())))
def test_a_secret_is_found_wherever_it_hides(value: object, secret: str) -> None:
    assert secret not in str(mask({"a": [value, {"b": f"x {secret} y"}]}))


@pytest.mark.parametrize(
    "hostile",
    ["-----BEGIN " + "A " * 100_000, "eyJ" * 100_000, "password" * 50_000, "://a:" * 80_000,
     "bearer " * 60_000, " --password=" * 40_000, "sk-" * 100_000,
     "mysql " * 60_000, " -u a:" * 50_000, "token='" * 50_000, "?key=" * 60_000],
)  # fmt: skip
def test_hostile_text_costs_little(hostile: str) -> None:
    started = time.perf_counter()
    mask_text(hostile)
    assert time.perf_counter() - started < 0.5


def test_a_call_costs_the_same_whatever_was_sent_with_it() -> None:
    masked = mask({"a": [["z" * 4000] * 100] * 100})
    looked_at = sum(len(text) for row in masked["a"] for text in row if text != "…")
    assert MAX_TOTAL <= looked_at <= MAX_TOTAL + MAX_TEXT
    assert masked["a"][0][99] == masked["a"][99] == "…"


def test_hostile_keys_cost_little_and_leave_room() -> None:
    hostile = {f"{number}" + "password" * 2_500: "x" for number in range(100)}
    started = time.perf_counter()
    masked = mask({"headers": hostile, "more": hostile, "url": "https://x.example/"})
    assert time.perf_counter() - started < 0.5
    assert masked["url"] == "https://x.example/"


def test_what_is_small_is_looked_at_first() -> None:
    large = {f"h{number}": "v" * 4000 for number in range(50)}
    masked = mask({"headers": large, "method": "DELETE", "n": 1, "url": "https://x.example/"})
    assert list(masked) == ["headers", "method", "n", "url"]
    assert (masked["method"], masked["url"]) == ("DELETE", "https://x.example/")


def test_names_never_run_together() -> None:
    large = {f"h{number}": "v" * 4000 for number in range(50)}
    assert list(mask({"headers": large})["headers"]) == list(large)
    long = {"n" * 300 + str(number): number for number in range(3)}
    assert list(mask(long).values()) == [0, 1, 2]


def test_no_half_of_a_secret_survives_in_a_name() -> None:
    assert "ghp_" not in str(mask({"a" * 180 + " " + SECRETS["GitHub"]: 1}))
