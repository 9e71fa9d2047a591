"""Sign-in by allauth, and the panel."""

from allauth.account import urls as account
from django.urls import include, path

from machines.panel import urls as panel
from machines.panel.access import PUBLIC, needs

# allauth asks for the sign-in itself where a page needs one
for pattern in account.urlpatterns:
    needs(PUBLIC)(pattern.callback)

urlpatterns = [
    path("accounts/", include(account)),
    path("", include(panel)),
]
