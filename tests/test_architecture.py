"""The rules that import-linter cannot see, and the ones a start-up must keep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
DJANGO_FREE = [
    "apps.policies.core.decide",
    "apps.policies.core.hidden",
    "apps.policies.codec",
    "apps.policies.types",
    "apps.orgs.types",
    "apps.audit.spool",
    "apps.proxy.egress.main",
    "apps.sandboxes.harness.sandboxd",
    "apps.sandboxes.harness.preflight",
    "apps.sandboxes.client",
]
NO_DJANGO = """
import importlib, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"django", "rest_framework", "channels", "celery"}:
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
importlib.import_module(sys.argv[1])
"""
SETUP = """
import django, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "lensagents.settings.test"
django.setup()
heavy = {"boto3", "botocore", "kubernetes", "apps.sandboxes.harness", "apps.proxy.egress", "proxy"}
print(",".join(sorted(heavy & set(sys.modules))))
"""


def _python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own interpreter and text
        [sys.executable, "-c", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", DJANGO_FREE)
def test_runs_where_django_is_not_installed(module: str) -> None:
    done = _python(NO_DJANGO, module)
    assert done.returncode == 0, done.stderr


def test_the_guard_bites() -> None:
    assert _python(NO_DJANGO, "apps.orgs.models").returncode != 0


def test_setup_imports_no_heavy_library() -> None:
    done = _python(SETUP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_server_can_load_the_entry_point_by_its_name() -> None:
    """As uvicorn and Daphne do: nothing has set Django up before."""
    done = _python(
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'lensagents.settings.test';"
        "import lensagents.asgi"
    )
    assert done.returncode == 0, done.stderr


def test_cores_import_only_the_standard_library() -> None:
    graph = grimp.build_graph("apps", include_external_packages=True)
    cores = [name for name in graph.modules if ".core" in name]
    assert cores
    foreign = {
        (core, imported)
        for core in cores
        for imported in graph.find_modules_directly_imported_by(core)
        if not imported.startswith("apps.") and imported not in sys.stdlib_module_names
    }
    assert foreign == set()


@pytest.mark.parametrize(
    "package", ["apps", "apps.common", "apps.policies", "apps.proxy", "apps.sandboxes"]
)
def test_package_files_that_django_free_code_passes_stay_empty(package: str) -> None:
    assert (ROOT / package.replace(".", "/") / "__init__.py").read_text() == ""


def test_no_file_is_past_its_size() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for folder in ("apps", "lensagents", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "migrations" not in path.parts and (lines := len(path.read_text().splitlines())) > 500
    ]
    assert long == []


def test_the_embedded_default_needs_no_postgresql_driver() -> None:
    """It is not among its requirements; the commands and pages that know PostgreSQL must load."""
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'lensagents.settings.test'\n"
        "import django; django.setup()\n"
        "import lensagents.urls, lensagents.health, lensagents.management.commands.migrate\n"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
