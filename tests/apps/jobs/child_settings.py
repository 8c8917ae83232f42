"""Server-mode children of the kill test: a real broker and database, and a short lease."""

from lensagents.settings.test import *  # noqa: F403

JOBS_LEASE_SECONDS = 2.0
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
