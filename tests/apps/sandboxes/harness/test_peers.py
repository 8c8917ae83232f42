"""Whose socket is at the other end: asked of the kernel in both ways, for both protocols."""

from __future__ import annotations

import ctypes
import os
import socket
import threading

import pytest

from apps.sandboxes.harness import peers
from tests.apps.sandboxes.harness.conftest import cannot

FAMILIES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
OURS, FOREIGN = 4242, 4243


def client(family: int, uid: int) -> socket.socket:
    """A socket that belongs to `uid`: sockets go by the file system user of their making."""
    if os.geteuid() != 0:
        cannot("sockets of other users need root")
    libc = ctypes.CDLL(None)
    libc.setfsuid(uid)
    try:
        return socket.socket(family)
    finally:
        libc.setfsuid(0)


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_the_owner_is_found_in_both_ways(family: int, address: str) -> None:
    with socket.create_server((address, 0), family=family) as server, client(family, OURS) as sock:
        sock.connect(server.getsockname())
        conn, _ = server.accept()
        with conn:
            ends = conn.getpeername()[:2], conn.getsockname()[:2]
            assert peers.owner(conn) == OURS
            assert peers._by_netlink(*ends) == peers._by_table(*ends) == OURS


@pytest.mark.allow_hosts(["127.0.0.1", "::ffff:127.0.0.1"])
def test_an_ipv4_connection_of_an_ipv6_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, client(socket.AF_INET6, OURS) as sock:
        sock.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        conn, _ = server.accept()
        with conn:
            assert peers.owner(conn) == OURS
            assert peers._by_table(conn.getpeername()[:2], conn.getsockname()[:2]) == OURS


def test_where_sock_diag_is_missing_the_table_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_NETLINK_SOCK_DIAG", 31)
    with socket.create_server(("127.0.0.1", 0)) as server, client(socket.AF_INET, OURS) as sock:
        sock.connect(server.getsockname())
        conn, _ = server.accept()
        with conn:
            assert peers.owner(conn) == OURS
            monkeypatch.setattr(peers, "_by_table", lambda *_: peers._UNKNOWN)
            assert peers.owner(conn) == -1


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_a_listener_serves_its_user_and_closes_on_others(family: int, address: str) -> None:
    with socket.create_server((address, 0), family=family) as server:
        listener = peers.OwnedListener(os.dup(server.fileno()), OURS)
        served: list[socket.socket] = []
        thread = threading.Thread(target=lambda: served.append(listener.accept()[0]))
        thread.start()
        foreign, gone, own = (client(family, uid) for uid in (FOREIGN, FOREIGN, OURS))
        for sock in (foreign, gone, own):
            sock.settimeout(5)
            sock.connect(server.getsockname())
            if sock is gone:
                sock.close()
        thread.join(10)
        assert [conn.getpeername() for conn in served] == [own.getsockname()]
        assert foreign.recv(1) == b""
        for sock in (foreign, own, *served, listener):
            sock.close()
