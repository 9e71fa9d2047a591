"""The panel's settings. Everything that differs between installations comes from the environment (docs: README)."""

import os
from pathlib import Path

import environ

BASE_DIR = Path(__file__).resolve().parent.parent

MIB = 1024 * 1024

env = environ.Env()
env_file = Path(os.environ.get("NSPAWNPANEL_ENV", "/etc/nspawnpanel/panel.env"))
if env_file.is_file():
    env.read_env(str(env_file))

DATA_DIR = env.path("NSPAWNPANEL_DATA", default="/var/lib/nspawnpanel")()
DEBUG = env.bool("DEBUG", default=False)


def secret(name: str, file: str) -> str:
    """A secret from the environment, or else from a file of the data directory; "" when neither is there."""
    path = Path(DATA_DIR) / file
    return str(env(name, default="")) or (path.read_text().strip() if path.is_file() else "")


# An unset key stops everything that signs; the system check names it. Tests and the demo make their own.
SECRET_KEY = secret("SECRET_KEY", "secret-key")
SECRET_KEY_FALLBACKS = env.list(
    "SECRET_KEY_FALLBACKS", default=[]
)  # keys of before: what they signed and sealed still holds
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
# Addresses or networks of proxies, whose X-Forwarded-For is believed; nobody else's is.
TRUSTED_PROXIES = env.list("TRUSTED_PROXIES", default=["127.0.0.1", "::1"])
FILE_UPLOAD_MAX_MEMORY_SIZE = (
    64 * 1024
)  # bytes of a body in memory; the rest waits in a file, for there may be many at once

# What the courier (and it alone) needs; the web process only pokes it through POKE_URL.
REDIS_URL = secret("REDIS_URL", "redis-url")
GUARD_URL = secret("GUARD_URL", "guard-url")  # the courier's second user: it shuts out a host that fills Redis
POKE_URL = secret("POKE_URL", "poke-url")
SIGNING_KEY_FILE = env.path("SIGNING_KEY_FILE", default=f"{DATA_DIR}/courier/signing-key")()

# How hosts reach this panel (https://panel.example.org), to fetch archives and to bring them; unset, they cannot.
PANEL_URL = env("NSPAWNPANEL_URL", default="").rstrip("/")
# Redis as hosts reach it (rediss://panel.example.org:6379/0), without user; unset, no host can be added in the browser.
HOSTS_REDIS_URL = env("NSPAWNPANEL_HOSTS_REDIS_URL", default="")
# The certificate that Redis shows (PEM; two of them while one follows another). Hosts that join take this one and no other.
REDIS_CERTIFICATE = env("NSPAWNPANEL_REDIS_CERTIFICATE", default="")
ARCHIVE_LIMIT = env.int("NSPAWNPANEL_ARCHIVE_GIB", default=50) * 1024**3

# What one host may cost the panel that all share (machines/panel/hosts/budgets.py). Beyond it things are left out, and pages say so.
MACHINES_PER_HOST = env.int("NSPAWNPANEL_MACHINES_PER_HOST", default=1000)
FILES_PER_HOST = env.int("NSPAWNPANEL_FILES_MIB_PER_HOST", default=64) * MIB
REPORTS_PER_DAY = env.int("NSPAWNPANEL_REPORTS_MIB_PER_DAY", default=8192) * MIB
LOG_PER_DAY = env.int("NSPAWNPANEL_LOG_MIB_PER_DAY", default=2048) * MIB
LOG_LINES_PER_DAY = env.int("NSPAWNPANEL_LOG_LINES_PER_DAY", default=5_000_000)
LOG_PER_JOB = env.int("NSPAWNPANEL_LOG_MIB_PER_JOB", default=64) * MIB
LOG_LINES_PER_JOB = env.int("NSPAWNPANEL_LOG_LINES_PER_JOB", default=200_000)

# How long the history is kept (machines/panel/audit/retention.py).
AUDIT_DAYS = env.int("NSPAWNPANEL_AUDIT_DAYS", default=730)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "machines",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "machines.panel.web.sealed_sessions.SealedSessions",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "machines.panel.web.bearer.ApiTokens",
    "machines.panel.web.acts.RecordRefusals",
    "machines.panel.web.devices.RememberDevice",
    "machines.panel.people.sessions.NoteLastSeen",
    "machines.panel.web.access.RequireDeclaredPermission",
    "machines.panel.web.acts.RecordActs",
]

ROOT_URLCONF = "nspawnpanel.urls"
ASGI_APPLICATION = "nspawnpanel.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["nspawnpanel.templates.Loader", "django.template.loaders.app_directories.Loader"],
                )
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "machines.panel.web.layout.frame",
            ],
            "builtins": ["machines.templatetags.panel_tags", "machines.templatetags.page_parts"],
        },
    }
]

LOCK_SECONDS = 10  # how long a change waits for another one before it says so (machines/panel/web/server_errors.py)
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA_DIR}/panel.sqlite3")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Writers queue up at BEGIN instead of failing half way; WAL lets pages read while the courier writes.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": LOCK_SECONDS,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    given = DATABASES["default"].setdefault("OPTIONS", {})
    given["options"] = f"-c lock_timeout={LOCK_SECONDS}s {given.get('options', '')}".strip()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "machines.User"
AUTHENTICATION_BACKENDS = ["machines.panel.web.accounts.SignedIn"]
ACCOUNT_ADAPTER = "machines.panel.web.accounts.InvitedOnly"
ACCOUNT_FORMS = {
    "login": "machines.panel.web.accounts.SignInForm",
    "change_password": "machines.panel.web.accounts.NewPasswordForm",
    "reauthenticate": "machines.panel.web.accounts.ConfirmPasswordForm",
    "reset_password": "machines.panel.people.resets.ResetByMailForm",
    "reset_password_from_key": "machines.panel.people.resets.ChooseForm",
}
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_PASSWORD_RESET_TOKEN_GENERATOR = "django.contrib.auth.tokens.PasswordResetTokenGenerator"  # noqa: S105
PASSWORD_RESET_TIMEOUT = 24 * 3600  # seconds a link to a new password works (machines/panel/people/resets.py)
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # strangers get no mail from here
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_REAUTHENTICATION_TIMEOUT = 15 * 60  # seconds a sign-in counts as recent (machines/panel/web/access.py)
MFA_ADAPTER = "machines.panel.people.second_factor.SecondFactor"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True  # nobody makes an account with somebody else's mail address: nobody signs up here
MFA_TOTP_TOLERANCE = 1  # steps of 30 s that a phone's clock may be off
MFA_FORMS = {
    "authenticate": "machines.panel.people.second_factor.CodeForm",
    "reauthenticate": "machines.panel.people.second_factor.ConfirmCodeForm",
    "activate_totp": "machines.panel.people.second_factor.ActivateForm",
    "add_webauthn": "machines.panel.people.second_factor.NewPasskeyForm",
    "edit_webauthn": "machines.panel.people.second_factor.PasskeyNameForm",
    "authenticate_webauthn": "machines.panel.people.second_factor.PasskeyForm",
    "reauthenticate_webauthn": "machines.panel.people.second_factor.ConfirmPasskeyForm",
    "login_webauthn": "machines.panel.people.second_factor.SignInPasskeyForm",
}

# Sign-in by an OpenID Connect provider, where one is set: its issuer, and what it calls this panel.
OIDC_SERVER_URL = env("OIDC_SERVER_URL", default="").rstrip("/")
OIDC_NAME = env("OIDC_NAME", default="single sign-on")
OIDC_GROUPS_CLAIM = env("OIDC_GROUPS_CLAIM", default="groups")
OIDC_TEAMS = env("OIDC_TEAMS", default="")  # GROUP=TEAM:ROLE, … (machines/panel/people/single_sign_on.py)
SOCIALACCOUNT_ADAPTER = "machines.panel.people.single_sign_on.GroupsDecide"
SOCIALACCOUNT_EMAIL_VERIFICATION = "none"
SOCIALACCOUNT_REQUESTS_TIMEOUT = 10  # seconds
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "sso",
                "name": OIDC_NAME,
                "client_id": env("OIDC_CLIENT_ID", default="nspawnpanel"),
                "secret": secret("OIDC_CLIENT_SECRET", "oidc-client-secret"),
                "settings": {
                    "server_url": OIDC_SERVER_URL,
                    "scope": env.list("OIDC_SCOPES", default=["openid", "profile", "email"]),
                },
            }
        ],
    }
}
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "machine-index"
LOGOUT_REDIRECT_URL = "account_login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# Passwords are counted in the database (machines/panel/web/attempts.py): allauth's own counts lock a known name for everybody.
ACCOUNT_RATE_LIMITS = False
MFA_RATE_LIMITS = False
# Nothing of ours is kept in a cache; a process's own is for what libraries may want
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 1000}}}

# EMAIL_URL=smtp+tls://user:password@mail.example.org:587 where mail can be sent; without it links are copied by hand.
HAS_MAIL = bool(env("EMAIL_URL", default=""))
if HAS_MAIL:
    for _name, _value in env.email_url("EMAIL_URL").items():
        globals()[_name] = _value
DEFAULT_FROM_EMAIL = env("EMAIL_FROM", default="nspawnpanel@localhost")
EMAIL_TIMEOUT = 10  # seconds

LANGUAGE_CODE = "en-gb"
TIME_ZONE = env("TIME_ZONE", default="UTC")
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = env.path("STATIC_ROOT", default=str(BASE_DIR / ".static"))()
_NODE = BASE_DIR / "static" / "node_modules"
STATICFILES_DIRS = [
    ("css", BASE_DIR / "static" / "css"),
    ("js", BASE_DIR / "static" / "js"),
    ("img", BASE_DIR / "static" / "img"),
    # Fetched by `npm ci` from the lock file, never committed.
    *(
        (f"vendor/{name}", _NODE / path)
        for name, path in {
            "bootstrap/css": "bootstrap/dist/css",
            "bootstrap/js": "bootstrap/dist/js",
            "idiomorph": "idiomorph/dist",
            "relative-time-element": "@github/relative-time-element/dist",
        }.items()
        if (_NODE / path).is_dir()
    ),
]
STORAGES = {
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
}

# HTTPS is the proxy's; say so with BEHIND_HTTPS=1, then cookies are marked for it.
BEHIND_HTTPS = env.bool("BEHIND_HTTPS", default=False)
if BEHIND_HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SILENCED_SYSTEM_CHECKS = ["security.W021"]  # browsers' preload lists are the domain owner's decision
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_HTTPS
SESSION_COOKIE_NAME = "__Host-session" if BEHIND_HTTPS else "session"
CSRF_COOKIE_NAME = "__Host-csrf" if BEHIND_HTTPS else "csrf"
DEVICE_COOKIE_NAME = "__Host-device" if BEHIND_HTTPS else "device"
SESSION_COOKIE_AGE = 12 * 3600
CSRF_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "machines.panel.views.accounts.out_of_date"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"

_OIDC_ORIGIN = ["/".join(OIDC_SERVER_URL.split("/")[:3])] if OIDC_SERVER_URL else []
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],  # the icons; Bootstrap draws its select arrows and checks as data: images
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'", *_OIDC_ORIGIN],  # the button that leads there is a form
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
