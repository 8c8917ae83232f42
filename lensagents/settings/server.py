"""Separate processes on PostgreSQL and Redis. What is missing or unsafe stops the start."""

import os
from urllib.parse import urlsplit

from apps.common.crypto import KeyRing
from lensagents.settings import base
from lensagents.settings.base import *  # noqa: F403
from lensagents.settings.env import SettingError

if os.geteuid() == 0:
    raise SettingError("the server settings do not run as root: start it as a user of its own")
_NO_TWINS = "addresses and certificate authorities of a test twin have no place on a server"
base.env.absent("ADDRESS_MAP", _NO_TWINS)
base.env.absent("UPSTREAM_CA_FILE", _NO_TWINS)
base.env.absent("DEV_IDP_PORT", "the development identity provider never runs on a server")

SECRET_KEY = base.env.secret_key("SECRET_KEY")
LENS_KEY_RING = KeyRing(base.env.keys("ENCRYPTION_KEYS"))
PUBLIC_URL = base.env.origin("PUBLIC_URL")
REDIS_URL = base.env.redis_url("REDIS_URL")
_DATABASE_URL = base.env.database_url("DATABASE_URL")
_SYSTEM_URL = base.env.database_url_or_none("DATABASE_SYSTEM_URL")
_OWNER_URL = base.env.database_url_or_none("DATABASE_OWNER_URL")
LENS_PLATFORM_HOSTS = base.platform_hosts(
    *base.ALLOWED_HOSTS, _DATABASE_URL.host, urlsplit(REDIS_URL).hostname or ""
)

DATABASES, LENS_DATABASE_ROLES = base.databases(_DATABASE_URL, _SYSTEM_URL, _OWNER_URL)
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
}
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS = base.REDIS_BROKER_OPTIONS
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
# TLS ends in front of us, at a proxy that must set (and never pass on) this header.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = base.HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if base.HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = base.HTTPS
SECURE_HSTS_PRELOAD = base.HTTPS
