"""The panel's URLs and one view more: the list page with its rows held in memory, for comparison."""

from typing import Any

from django.db import connection
from django.http import HttpResponse
from django.shortcuts import render
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone

from machines.contract.rights import Right
from machines.panel import access, listing
from machines.panel.views import machines
from nspawnpanel import urls

memory_url = "/memory/"
_kept: dict[str, Any] = {}


@access.needs(Right.SEE)
def memory(request: access.PanelRequest) -> HttpResponse:
    """The same template and the same rows; the only queries left are session and user."""
    if not _kept:
        page = listing.page(listing.read_wish(request.GET), {}, timezone.now())
        _kept.update(machines.index_context(request, page.wish, page), version=page.version)
    request._unfinished_jobs = []  # type: ignore[attr-defined]
    return render(request, "machines/index.html", dict(_kept))


def count_queries(client: Any, address: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        client.get(address)
    return len(captured)


urlpatterns = [path("memory/", memory), path("", include(urls))]
