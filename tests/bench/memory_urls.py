"""The panel's URLs and one view more: the list page with its rows held in memory, for comparison."""

from dataclasses import replace
from typing import Any

from django.db import connection
from django.http import HttpResponse
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.panel.pages import machine_list, machine_rows
from machines.panel.views import machines
from machines.panel.web import access, layout, responses
from nspawnpanel import urls

memory_url = "/memory/"
_kept: list[tuple[machine_list.MachineListPage, list[dict[str, Any]]]] = []


@access.needs(Permission.VIEW)
def memory(request: access.PanelRequest) -> HttpResponse:
    """The list view word for word, but the 50 rows and their number are held in memory instead of asked for."""
    now = timezone.now()
    query = machine_list.parse_query(request.GET)
    if not _kept:
        found, _ = machine_list._rows(machine_list.matching(query.filter, {}, now, by=request.user), query)
        _kept.append((machine_list.page(query, {}, now, by=request.user), found))
    kept, found = _kept[0]
    jobs = layout.unfinished_jobs(request)
    busy = machine_rows.by_machine(jobs)
    page = replace(kept, rows=[machine_rows.row(values, busy, now, None) for values in found])
    context = machines.index_context(request, query, page)
    return responses.page(request, "machines/index.html", context, version=f"{page.version}{len(jobs)}")


def count_queries(client: Any, address: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        client.get(address)
    return len(captured)


urlpatterns = [path("memory/", memory), path("", include(urls))]
