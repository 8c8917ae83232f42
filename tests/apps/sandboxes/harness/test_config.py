"""The configuration: what is right is read, what is wrong stops the start by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import Invalid
from apps.sandboxes.harness.config import Config, ConfigError, Limits, load, parse
from tests.apps.sandboxes.harness.conftest import CHECKOUT, program

REQUIRED = {"socket": "/run/l/s.sock", "spool_root": "/var/l/spool", "broker_socket": "/run/l/b"}


def test_defaults_and_values() -> None:
    config = parse(
        {
            **REQUIRED,
            "control_uid": 1000,
            "address_map": {"api.test": ["127.0.0.1", 8443]},
            "upstream_ca_file": None,
            "system_paths": ["/usr", "/opt/tools"],
            "limits": {"pids": 10, "cpu_percent": 0},
        }
    )
    assert config.socket == Path("/run/l/s.sock")
    assert config.control_uid == 1000
    assert config.address_map == {"api.test": ("127.0.0.1", 8443)}
    assert config.system_paths == ("/usr", "/opt/tools")
    assert (config.limits.pids, config.limits.open_files) == (10, 4096)
    assert config.root_mount == Path("/run/l/sandbox-root")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("socket", "relative"), ("socket", 5), ("spool_root", None), ("control_uid", -1),
        ("control_uid", True), ("control_uid", "0"), ("sandbox_uid_base", 0),
        ("max_sandboxes", 0), ("explain_url", 1), ("address_map", []),
        ("address_map", {"h": ["example.com", 1]}), ("address_map", {"h": ["127.0.0.1", 0]}),
        ("address_map", {"h": "127.0.0.1:1"}), ("upstream_ca_file", "ca.pem"),
        ("system_paths", "/usr"), ("system_paths", ["usr"]), ("use_cgroups", 1),
        ("limits", []), ("limits", {"pids": 0}), ("limits", {"pids": 1.5}),
        ("limits", {"colour": 1}), ("no_such_setting", 1), ("force_unavailable", True),
    ],
)  # fmt: skip
def test_a_wrong_value_names_itself(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}"):
        parse({**REQUIRED, field: value})


@pytest.mark.parametrize("field", REQUIRED)
def test_what_is_required(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: is required"):
        parse({k: v for k, v in REQUIRED.items() if k != field})


@pytest.mark.parametrize(
    "values",
    [
        {"sandbox_uid_base": 5000, "proxy_uid_base": 5100},
        {"control_uid": 200_005},
        {"control_uid": 300_005},
    ],
)
def test_users_never_overlap(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"^proxy_uid_base|^control_uid"):
        parse({**REQUIRED, **values})


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_file_that_holds_no_object(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.json"):
        load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.json")


def test_the_start_stops_with_the_fields_name(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**REQUIRED, "max_sandboxes": "many"}))
    done = program("-m", "apps.sandboxes.harness.sandboxd", "--config", str(path))
    assert done.returncode == 2
    assert b"max_sandboxes: must be a whole number" in done.stderr


def test_limits_are_overridden_one_by_one() -> None:
    limits = Limits().override({"pids": 7})
    assert limits.pids == 7
    assert limits.memory_bytes == Limits().memory_bytes
    for wrong in ({"pids": -1}, {"pids": "7"}, {"size": 1}, {"memory_bytes": 1 << 63}):
        with pytest.raises(Invalid, match=r"^limits\."):
            limits.override(wrong)


def test_every_field_is_documented() -> None:
    page = (CHECKOUT / "docs" / "sandbox.md").read_text()
    names = [f.name for f in (*dataclasses.fields(Config), *dataclasses.fields(Limits))]
    assert [name for name in names if f"`{name}`" not in page] == []


@given(
    memory=st.integers(1, 1 << 40),
    sizes=st.tuples(*[st.integers(1, 1 << 40)] * 3),
)
def test_files_leave_room_for_processes(memory: int, sizes: tuple[int, int, int]) -> None:
    workspace, tmp, shm = sizes
    limits = Limits(memory_bytes=memory, workspace_bytes=workspace, tmp_bytes=tmp, shm_bytes=shm)
    given_sizes = limits.tmpfs_bytes()
    assert all(1 <= got <= wanted for got, wanted in zip(given_sizes, sizes, strict=True))
    room = max(memory // 2, memory - (256 << 20))
    assert sum(given_sizes) <= room + 3
    if sum(sizes) <= room:
        assert given_sizes == sizes
