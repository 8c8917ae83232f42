"""One process on one machine: SQLite, threads, in-memory broker and channel layer."""

from apps.common.crypto import KeyRing
from lensagents.settings import base, keys
from lensagents.settings.base import *  # noqa: F403

keys.make_data_dir(base.DATA_DIR)
SECRET_KEY = keys.load_secret_key(base.DATA_DIR)
LENS_KEY_RING = KeyRing(keys.load_encryption_keys(base.DATA_DIR))
DEV_IDP_ALLOWED = True

DATABASES = {"default": base.sqlite(base.DATA_DIR / "db.sqlite3")}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
CELERY_BROKER_URL = "memory://localhost/"
# The default of one second would make every job wait half of it.
CELERY_BROKER_TRANSPORT_OPTIONS = {"polling_interval": 0.05}

ALLOWED_HOSTS = sorted({"localhost", "127.0.0.1", "[::1]", *base.ALLOWED_HOSTS})
# Static files are served from where they lie: there is no collecting step on a desk.
STATIC_ROOT = None
WHITENOISE_USE_FINDERS = True
