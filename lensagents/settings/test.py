"""Tests: the embedded choices on a data folder and a database of their own.

`LENS_TEST_DATABASE=postgres` runs them on the PostgreSQL and the Redis that `LENS_DATABASE_URL`,
`LENS_DATABASE_SYSTEM_URL`, `LENS_DATABASE_OWNER_URL` and `LENS_REDIS_URL` name: as the
application's role, with row-level security.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apps.common.crypto import KeyRing
from lensagents.settings import base
from lensagents.settings.base import *  # noqa: F403

# Migrations stay linear: with max_migration.txt two branches that add one conflict in git.
INSTALLED_APPS = [*base.INSTALLED_APPS, "django_linear_migrations"]
DATA_DIR = Path(tempfile.gettempdir()) / f"lens-tests-{os.getpid()}"
RUN_DIR = DATA_DIR / "run"
SPOOL_DIR = DATA_DIR / "spool"
atexit.register(shutil.rmtree, DATA_DIR, ignore_errors=True)

SECRET_KEY = "tests-only-" + "x" * 50
LENS_KEY_RING = KeyRing([b"tests-only-tests-only-tests-only"])
DEV_IDP_ALLOWED = True
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1", "[::1]"]
STATIC_ROOT = None
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = True

DATABASES: dict[str, Any] = {"default": base.sqlite(DATA_DIR / "db.sqlite3")}
# A file: an in-memory database that threads share has no busy timeout; they would not wait.
DATA_DIR.mkdir(mode=0o711, exist_ok=True)
DATABASES["default"]["TEST"] = {"NAME": DATA_DIR / "test.sqlite3"}
CACHES: dict[str, Any] = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
CELERY_BROKER_URL = "memory://localhost/"
CELERY_BROKER_TRANSPORT_OPTIONS = {"polling_interval": 0.05}

if base.env.choice("TEST_DATABASE", "sqlite", among=("sqlite", "postgres")) == "postgres":
    # A Redis database for each test process: what one clears or counts is nobody else's.
    _WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # noqa: TID251  pytest's own name
    _SERVER = urlsplit(base.env.redis_url("REDIS_URL"))
    REDIS_URL = _SERVER._replace(path=f"/{int(_WORKER.removeprefix('gw')) + 1}").geturl()
    DATABASES, LENS_DATABASE_ROLES = base.databases(
        base.env.database_url("DATABASE_URL"),
        base.env.database_url("DATABASE_SYSTEM_URL"),
        base.env.database_url("DATABASE_OWNER_URL"),
    )
    for _one in DATABASES.values():
        # A pool would hold connections that the dropping of the test database waits for.
        _one["OPTIONS"].pop("pool", None)
    for _alias in ("system", "owner"):
        DATABASES[_alias]["TEST"] = {"MIRROR": "default"}
    CACHES["default"] = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
    }
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
    CELERY_BROKER_URL = REDIS_URL
    CELERY_BROKER_TRANSPORT_OPTIONS = base.REDIS_BROKER_OPTIONS
