"""Tests: the embedded settings on a database of their own."""

from lensagents.settings.embedded import *  # noqa: F403

SECRET_KEY = "tests-only-" + "x" * 50
