"""The credential kinds: every module of `apps/connections/kinds/` registers one."""

from __future__ import annotations

from apps.common.registry import Registry
from apps.connections.types import CredentialKind  # noqa: TC001  the registry is generic in it

kinds: Registry[CredentialKind] = Registry("credential kind", "apps.connections.kinds")
