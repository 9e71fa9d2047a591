"""The panel's table of contents, grouped by noun. Names are noun-verb; every change is a POST."""

from django.urls import URLPattern, include, path
from django.views.generic import RedirectView

from machines.contract.rights import Right
from machines.panel.access import needs

home = needs(Right.SEE)(RedirectView.as_view(pattern_name="machine-index"))

machine_urls: list[URLPattern] = []  # /machines/…
one_machine_urls: list[URLPattern] = []  # /hosts/HOST/machines/NAME/…
config_urls: list[URLPattern] = []  # /hosts/HOST/machines/NAME/config/… and …/revisions/…
host_urls: list[URLPattern] = []  # /hosts/…
job_urls: list[URLPattern] = []  # /jobs/…
account_urls: list[URLPattern] = []  # /settings/…

urlpatterns = [
    path("", home, name="home"),
    path("machines/", include(machine_urls)),
    path("hosts/<str:host>/machines/<str:name>/", include([*one_machine_urls, *config_urls])),
    path("hosts/", include(host_urls)),
    path("jobs/", include(job_urls)),
    path("settings/", include(account_urls)),
]
