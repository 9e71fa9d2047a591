"""Sign-in by allauth, and the panel."""

from collections.abc import Iterator
from typing import Any

from allauth.account import urls as account
from allauth.mfa import urls as mfa
from allauth.socialaccount import urls as social
from allauth.socialaccount.providers.openid_connect import urls as oidc
from allauth.socialaccount.providers.openid_connect import views as oidc_views
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from machines.panel import urls as panel
from machines.panel.people import resets, second_factor, single_sign_on
from machines.panel.web import server_errors
from machines.panel.web.access import PUBLIC, SIGNED_IN, needs

# Of allauth's pages those that are there, and who may open them; the others would send mail or make accounts.
OPEN = {
    "account_login": PUBLIC,
    "account_logout": PUBLIC,
    "account_inactive": PUBLIC,
    "account_change_password": SIGNED_IN,
    "account_reauthenticate": SIGNED_IN,
    "account_reset_password": PUBLIC,  # where mail is set
    "account_reset_password_done": PUBLIC,
    "account_reset_password_from_key": PUBLIC,
    "account_reset_password_from_key_done": PUBLIC,
    "mfa_authenticate": PUBLIC,  # the second step of a sign-in
    "mfa_login_webauthn": PUBLIC,
    "openid_connect_login": PUBLIC,  # where a provider is set
    "openid_connect_callback": PUBLIC,
    "socialaccount_login_cancelled": PUBLIC,
    "socialaccount_login_error": PUBLIC,
    "mfa_index": SIGNED_IN,
    "mfa_reauthenticate": SIGNED_IN,
    "mfa_reauthenticate_webauthn": SIGNED_IN,
    "mfa_activate_totp": SIGNED_IN,
    "mfa_deactivate_totp": SIGNED_IN,
    "mfa_list_webauthn": SIGNED_IN,
    "mfa_add_webauthn": SIGNED_IN,
    "mfa_edit_webauthn": SIGNED_IN,
    "mfa_remove_webauthn": SIGNED_IN,
    "mfa_view_recovery_codes": SIGNED_IN,
    "mfa_generate_recovery_codes": SIGNED_IN,
    "mfa_download_recovery_codes": SIGNED_IN,
}
# What is shown elsewhere, or needs a word of ours around it.
INSTEAD = {
    "openid_connect_login": single_sign_on.where_set(oidc_views.login),
    "openid_connect_callback": single_sign_on.where_set(oidc_views.callback),
    "account_reset_password": resets.by_mail,
    "mfa_list_webauthn": RedirectView.as_view(pattern_name="mfa_index"),
    "mfa_login_webauthn": second_factor.login_by_passkey,
}


@needs(PUBLIC)
def closed(request: HttpRequest, **_: str) -> HttpResponse:
    raise Http404(request.path)


def patterns(entries: list[Any]) -> Iterator[URLPattern]:
    for each in entries:
        if isinstance(each, URLResolver):
            yield from patterns(each.url_patterns)
        else:
            yield each


# Names of closed pages stay, for allauth resolves them.
for pattern in patterns([*account.urlpatterns, *mfa.urlpatterns, *social.urlpatterns, *oidc.urlpatterns]):
    name = pattern.name or ""
    pattern.callback = needs(OPEN[name])(INSTEAD.get(name, pattern.callback)) if name in OPEN else closed

single_sign_on.parse(settings.OIDC_TEAMS)  # what is wrong with it is said at the start
handler500 = server_errors.answer

urlpatterns = [
    path("accounts/", include(account)),
    path("accounts/", include(oidc)),
    path("accounts/sso/", include(social)),
    path("settings/security/", include(mfa)),
    path("", include(panel)),
]
