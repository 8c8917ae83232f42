"""The settings modules, each loaded in a process of its own, as a deployment would."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Server settings refuse root, and tests may well run as root.
NOT_ROOT = "import os; os.geteuid = lambda: 1000\n"
SERVER = {
    "LENS_PUBLIC_URL": "https://lens.example.com",
    "LENS_SECRET_KEY": "0123456789" * 5,
    "LENS_ENCRYPTION_KEYS": base64.b64encode(b"k" * 32).decode(),
    "LENS_DATABASE_URL": "postgresql://lens:database-password@localhost/lens",
    "LENS_REDIS_URL": "redis://localhost:6379/0",
}
SHOW = """
import json
from django.conf import settings
print(json.dumps({name: getattr(settings, name) for name in %s}, default=str))
"""


def run(module: str, script: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with this settings module and these variables only."""
    kept = {name: os.environ[name] for name in ("PATH",)}  # noqa: TID251  handed on, not read
    return subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", script],
        env={**kept, **env, "DJANGO_SETTINGS_MODULE": f"lensagents.settings.{module}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def server(script: str, **env: str | None) -> subprocess.CompletedProcess[str]:
    """The server settings with some variables changed; None takes one away."""
    merged = {**SERVER, **env}
    given = {name: value for name, value in merged.items() if value is not None}
    return run("server", NOT_ROOT + script, given)


def test_server_passes_the_deployment_check() -> None:
    script = (
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('check', deploy=True, fail_level='WARNING')\n"
    )
    done = server(script)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize("name", SERVER)
def test_server_names_what_is_missing(name: str) -> None:
    done = server("from django.conf import settings; settings.DEBUG", **{name: None})
    assert done.returncode != 0
    assert name in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LENS_ADDRESS_MAP", '{"api.test": ["127.0.0.1", 1]}'),
        ("LENS_UPSTREAM_CA_FILE", "/tmp/ca.pem"),  # noqa: S108  only a name
        ("LENS_DEV_IDP_PORT", "9000"),
        ("LENS_SECRET_KEY", "short-secret"),
        ("LENS_ENCRYPTION_KEYS", "bm90LTMyLWJ5dGVz"),
        ("LENS_DATABASE_URL", "mysql://lens:database-password@localhost/lens"),
        ("LENS_PUBLIC_URL", "lens.example.org"),
        ("LENS_SESSION_HOURS", "forever"),
    ],
)
def test_server_refuses_what_is_unsafe(name: str, value: str) -> None:
    done = server("from django.conf import settings; settings.DEBUG", **{name: value})
    assert done.returncode != 0
    assert name in done.stderr.splitlines()[-1]
    assert value not in done.stderr


def test_server_refuses_root() -> None:
    root = "import os; os.geteuid = lambda: 0\nfrom django.conf import settings; settings.DEBUG"
    done = run("server", root, SERVER)
    assert done.returncode != 0
    assert "do not run as root" in done.stderr


def test_server_choices() -> None:
    names = ["SESSION_COOKIE_NAME", "SESSION_COOKIE_SECURE", "SECURE_HSTS_SECONDS", "DEBUG"]
    shown = json.loads(server(SHOW % [*names, "DEV_IDP_ALLOWED"]).stdout)
    assert shown == {
        "SESSION_COOKIE_NAME": "__Host-lens_session",
        "SESSION_COOKIE_SECURE": True,
        "SECURE_HSTS_SECONDS": 31_536_000,
        "DEBUG": False,
        "DEV_IDP_ALLOWED": False,
    }


def test_the_platform_and_its_stores_are_named_for_refusal() -> None:
    done = server(
        SHOW % ["LENS_PLATFORM_HOSTS"],
        LENS_ALLOWED_HOSTS="52.1.2.3,[2001:db8::7],.internal.example,*",
        LENS_DATABASE_URL="postgresql://lens:database-password@db.example/lens",
        LENS_REDIS_URL="redis://10.0.0.9:6379/0",
    )
    assert json.loads(done.stdout)["LENS_PLATFORM_HOSTS"] == [
        "lens.example.com",
        "52.1.2.3",
        "[2001:db8::7]",
        "internal.example",
        "*.internal.example",
        "db.example",
        "10.0.0.9",
    ]


def test_server_takes_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("abcdefghij" * 6 + "\n")
    script = SHOW % ["SECRET_KEY"]
    done = server(script, LENS_SECRET_KEY=None, LENS_SECRET_KEY_FILE=str(file))
    assert json.loads(done.stdout) == {"SECRET_KEY": "abcdefghij" * 6}


def test_embedded_choices(tmp_path: Path) -> None:
    names = ["PUBLIC_URL", "ALLOWED_HOSTS", "SESSION_COOKIE_NAME", "DATABASES", "LENS_KEY_RING"]
    env = {"LENS_DATA_DIR": str(tmp_path / "data"), "LENS_PORT": "8123"}
    done = run("embedded", SHOW % names, env)
    shown = json.loads(done.stdout)
    assert shown["PUBLIC_URL"] == "http://127.0.0.1:8123"
    assert shown["ALLOWED_HOSTS"] == ["127.0.0.1", "[::1]", "localhost"]
    assert shown["SESSION_COOKIE_NAME"] == "lens_session"
    assert shown["DATABASES"]["default"]["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    key = (tmp_path / "data" / "keys" / "encryption_keys").read_text().strip()
    assert key not in done.stdout
    assert shown["LENS_KEY_RING"].startswith("KeyRing(")


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"^\| `(LENS_[A-Z_]+)`", page, re.MULTILINE))
    assert documented == _variables()


def _variables() -> set[str]:
    """Every name that a settings module asks its `env` for."""
    found = set()
    for path in (ROOT / "lensagents" / "settings").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _is_env(node.func) and node.args:
                name = node.args[0]
                assert isinstance(name, ast.Constant)
                assert isinstance(name.value, str)
                found.add(f"LENS_{name.value}")
    return found


def _is_env(func: ast.expr) -> bool:
    """`env.text(…)` and `base.env.text(…)`."""
    if not isinstance(func, ast.Attribute):
        return False
    owner = func.value
    return (isinstance(owner, ast.Name) and owner.id == "env") or (
        isinstance(owner, ast.Attribute) and owner.attr == "env"
    )
