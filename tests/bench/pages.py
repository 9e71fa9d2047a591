"""Figures of pages, with a seeded fleet: 10,000 machines on 200 hosts."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTS, MACHINES = 200, 10_000


def list_page(runs: int = 300) -> tuple[str, Sequence[float], Sequence[float], str]:
    """50 rows out of 10,000 machines, over a view that renders the same 50 rows, in the same page, from a list in memory.

    Both through the whole stack of middleware for the same signed-in person, in turn.
    """
    with tempfile.TemporaryDirectory(prefix="nspawnpanel-bench-") as data:
        client, urls = _prepare(Path(data))
        ours, plain = [], []
        for _ in range(runs + 20):
            ours.append(_milliseconds(client, "/machines/"))
            plain.append(_milliseconds(client, urls.memory_url))
        queries = urls.count_queries(client, "/machines/")
        ratio = p95(ours[20:]) / p95(plain[20:])
        what = f"50 of {MACHINES:,} machines over the same rows from memory; p95 ratio {ratio:.2f}, {queries} queries"
        return what, ours[20:], plain[20:], "ms"


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def _milliseconds(client: Any, path: str) -> float:
    began = time.perf_counter()
    response = client.get(path)
    taken = (time.perf_counter() - began) * 1000
    assert response.status_code == 200, (path, response.status_code)
    return taken


def _prepare(data: Path) -> tuple[Any, Any]:
    """Django is set up here and not at import, for only this figure needs it and it needs a place of its own."""
    os.environ.update(
        DJANGO_SETTINGS_MODULE="nspawnpanel.settings", SECRET_KEY="only-for-bench", ALLOWED_HOSTS="testserver",
        NSPAWNPANEL_ENV="/nonexistent", NSPAWNPANEL_DATA=str(data),
    )  # fmt: skip
    import django

    django.setup()
    from django.core.management import call_command
    from django.test.utils import override_settings

    from machines.models import Host
    from tests import make
    from tests.bench import memory_urls

    call_command("migrate", verbosity=0, interactive=False)
    make.fleet(HOSTS, MACHINES)
    assert Host.objects.count() == HOSTS
    override_settings(ROOT_URLCONF="tests.bench.memory_urls").enable()
    return make.client(make.user("ada", role="administrator")), memory_urls
