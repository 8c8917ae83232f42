"""Where things are for the commands of one sandbox: its folders, its trust, its proxy's port.

In a root of its own a sandbox has them at fixed places. Sandboxes that share the host's files have
each a folder: `/workspace` and `/tmp` as callers name them are then two folders in there, and the
environment tells tools the true paths.
"""

from __future__ import annotations

from dataclasses import dataclass

from apps.sandboxes.harness import env

# Of a sandbox in a folder: its own two, and one that it can only read.
FOLDERS = ("workspace", "tmp", "etc")
_TMP = "/tmp"  # noqa: S108 the sandbox's own, in the one way or the other


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths, and the port of the proxy on the loopback."""

    workspace: str = env.WORKSPACE
    tmp: str = _TMP
    bundle: str = env.CA_BUNDLE
    authority: str = env.SANDBOX_CA
    port: int = env.PROXY_PORT

    @property
    def roots(self) -> tuple[tuple[str, str], ...]:
        """(prefix that a caller may use, folder it stands for).

        The true names come first: they may lie below the host's own /tmp.
        """
        true = ((self.workspace, self.workspace), (self.tmp, self.tmp))
        return tuple(dict.fromkeys((*true, (env.WORKSPACE, self.workspace), (_TMP, self.tmp))))

    def resolved(self, path: str) -> str:
        """`path` with the fixed name of a folder replaced by its true one."""
        for prefix, folder in self.roots:
            if path == prefix or path.startswith(prefix + "/"):
                return folder + path[len(prefix) :]
        return path

    def environment(self) -> dict[str, str]:
        """The variables of the default environment that are other here."""
        true = {
            env.WORKSPACE: self.workspace,
            _TMP: self.tmp,
            env.CA_BUNDLE: self.bundle,
            env.SANDBOX_CA: self.authority,
            f"http://127.0.0.1:{env.PROXY_PORT}": f"http://127.0.0.1:{self.port}",
        }
        named = {name: true.get(value, value) for name, value in env.DEFAULT.items()}
        return {name: value for name, value in named.items() if value != env.DEFAULT[name]}


def of_home(home: str, port: int) -> Places:
    """The places of a sandbox that has the folder `home` on the host."""
    workspace, tmp, trust = (f"{home}/{name}" for name in FOLDERS)
    return Places(workspace, tmp, f"{trust}/ca.pem", f"{trust}/sandbox-ca.pem", port)


class _Here:
    """Of the sandbox that this process is in; set once, by its first process."""

    places = Places()


def here() -> Places:
    """The places of the sandbox that we run in."""
    return _Here.places


def settle(values: Places) -> None:
    """From now on, and for all that this process forks, these are the places."""
    _Here.places = values
