"""The panel's table of contents, grouped by noun. Names are noun-verb; every change is a POST."""

from django.urls import URLPattern, include, path, register_converter
from django.urls.converters import StringConverter
from django.views.generic import RedirectView

from machines.contract.permissions import Permission
from machines.panel.orders.operations import ACTIONS
from machines.panel.views import (
    accounts,
    archives,
    base_images,
    configs,
    doctor,
    effective_settings,
    enrolments,
    events,
    hosts,
    jobs,
    limit_tests,
    machines,
    new_machine,
    people,
    pools,
    presets,
    raw,
    recipes,
    restored,
    revisions,
)
from machines.panel.views.teams import claims, permissions, shares, teams, tokens
from machines.panel.web import sign_ins  # noqa: F401  # it listens from its import on
from machines.panel.web.access import needs


class Word(StringConverter):
    """What may be a name: PostgreSQL takes no NUL."""

    regex = r"[^/\0]+"


register_converter(Word, "word")

home = needs(Permission.VIEW)(RedirectView.as_view(pattern_name="machine-index"))

machine_urls: list[URLPattern] = [  # /machines/…
    path("", machines.index, name="machine-index"),
    path("hosts/", machines.hosts, name="machine-hosts"),
    path("unclaimed/", claims.unclaimed, name="machine-unclaimed"),
    path("assign/", claims.assign, name="machine-assign"),
    path("new/", new_machine.new, name="machine-new"),
    path("new/preview/", new_machine.preview, name="machine-new-preview"),
]
one_machine_urls: list[URLPattern] = [  # /hosts/HOST/machines/NAME/…
    path("", machines.detail, name="machine-detail"),
    path("menu/", machines.menu, name="machine-menu"),
    path("confirm/<word:op>/", machines.confirm, name="machine-confirm"),
    path("export/", archives.export, name="machine-export"),
    path("remove/", machines.remove, name="machine-remove"),
    path("forget/", machines.forget, name="machine-forget"),
    *(path(f"{op}/", machines.act, {"op": op}, name=f"machine-{op}") for op in ACTIONS),
]
doctor_urls: list[URLPattern] = [  # /hosts/HOST/machines/NAME/doctor/… and …/limit-test/…
    path("doctor/", doctor.machine, name="machine-doctor"),
    path("doctor/diagnose/", doctor.diagnose_machine, name="machine-diagnose"),
    path("doctor/fix/<word:what>/", doctor.fix_machine, name="machine-fix"),
    path("limit-test/", limit_tests.detail, name="machine-limit-test"),
    path("limit-test/run/", limit_tests.run, name="machine-limit-test-run"),
]
config_urls: list[URLPattern] = [  # /hosts/HOST/machines/NAME/config/… and …/revisions/…
    path("config/", configs.edit, name="config-edit"),
    path("config/raw/", raw.raw, name="config-raw"),
    path("config/review/", configs.review, name="config-review"),
    path("config/clean/", configs.clean, name="config-clean"),
    path("config/apply/", configs.apply, name="config-apply"),
    path("config/rebase/", configs.rebase, name="config-rebase"),
    path("config/discard/", configs.discard, name="config-discard"),
    path("effective/", effective_settings.index, name="config-effective"),
    path("effective/adopt/", effective_settings.adopt, name="config-adopt"),
    path("effective/reapply/", effective_settings.reapply, name="config-reapply"),
    path("effective/import-limits/", effective_settings.import_limits, name="config-import-limits"),
    path("effective/remove-dropin/", effective_settings.remove_dropin, name="config-remove-dropin"),
    path("effective/ignore/", effective_settings.ignore, name="config-ignore"),
    path("revisions/", revisions.index, name="revision-index"),
    path("revisions/compare/", revisions.compare, name="revision-compare"),
    path("revisions/<int:number>/", revisions.detail, name="revision-detail"),
    path("revisions/<int:number>/restore/", revisions.restore, name="revision-restore"),
]
host_urls: list[URLPattern] = [  # /hosts/…
    path("", hosts.index, name="host-index"),
    path("<word:host>/", hosts.detail, name="host-detail"),
    path("<word:host>/teams/", shares.of_host, name="host-teams"),
    path("<word:host>/release/", hosts.release, name="host-release"),
    path("<word:host>/receipts/", events.host_receipts, name="host-receipts"),
    path("<word:host>/enrol-again/", enrolments.again, name="host-enrol-again"),
    path("<word:host>/rename/", enrolments.rename, name="host-rename"),
    path("<word:host>/remove/", enrolments.remove, name="host-remove"),
    path("<word:host>/pool/", pools.new, name="host-pool"),
    path("<word:host>/doctor/", doctor.host, name="host-doctor"),
    path("<word:host>/doctor/diagnose/", doctor.diagnose_host, name="host-diagnose"),
    path("<word:host>/doctor/fix/<word:what>/", doctor.fix_host, name="host-fix"),
    path("<word:host>/bases/<word:base>/rebuild/", base_images.rebuild, name="base-rebuild"),
    path("<word:host>/bases/<word:base>/remove/", base_images.remove, name="base-remove"),
]
enrolment_urls: list[URLPattern] = [  # /enrolments/…
    path("new/", enrolments.new, name="enrolment-new"),
    path("<uuid:enrolment>/", enrolments.detail, name="enrolment-detail"),
    path("<uuid:enrolment>/accept/", enrolments.accept, name="enrolment-accept"),
    path("<uuid:enrolment>/refuse/", enrolments.refuse, name="enrolment-refuse"),
]
job_urls: list[URLPattern] = [  # /jobs/…
    path("", jobs.index, name="job-index"),
    path("running/", jobs.running, name="job-running"),
    path("<int:pk>/", jobs.detail, name="job-detail"),
    path("<int:pk>/status/", jobs.status, name="job-status"),
    path("<int:pk>/log/stream/", jobs.follow_log, name="job-log-stream"),
    path("<int:pk>/log/raw/", jobs.log_raw, name="job-log-raw"),
    path("<int:pk>/log/older/", jobs.log_older, name="job-log-older"),
    path("<int:pk>/log/search/", jobs.log_search, name="job-log-search"),
    path("<int:pk>/cancel/confirm/", jobs.cancel_confirm, name="job-cancel-confirm"),
    path("<int:pk>/cancel/", jobs.cancel, name="job-cancel"),
    path("<int:pk>/retry/", jobs.retry, name="job-retry"),
    path("<int:pk>/build-base/", base_images.of_job, name="job-build-base"),
]
recipe_urls: list[URLPattern] = [  # /recipes/…
    path("", recipes.index, name="recipe-index"),
    path("new/", recipes.new, name="recipe-new"),
    path("starters/", recipes.add_starter, name="recipe-starter"),
    path("<int:pk>/", recipes.detail, name="recipe-detail"),
    path("<int:pk>/edit/", recipes.edit, name="recipe-edit"),
    path("<int:pk>/build-base/", recipes.build_base, name="recipe-build-base"),
    path("<int:pk>/archive/", recipes.archive, name="recipe-archive"),
    path("<int:pk>/unarchive/", recipes.unarchive, name="recipe-unarchive"),
    path("<int:pk>/versions/<int:number>/", recipes.version, name="recipe-version"),
    path("<int:pk>/versions/<int:number>/restore/", recipes.restore, name="recipe-restore"),
]
archive_urls: list[URLPattern] = [  # /archives/…
    path("", archives.index, name="archive-index"),
    path("begin/", archives.begin, name="archive-begin"),
    path("<uuid:archive>/part/", archives.part, name="archive-part"),
    path("<uuid:archive>/state/", archives.state, name="archive-state"),
    path("<uuid:archive>/content/", archives.content, name="archive-content"),
    path("<uuid:archive>/remove/", archives.remove, name="archive-remove"),
]
preset_urls: list[URLPattern] = [  # /presets/…
    path("", presets.index, name="preset-index"),
    path("new/", presets.new, name="preset-new"),
    path("starters/", presets.add_starter, name="preset-starter"),
    path("<int:pk>/", presets.detail, name="preset-detail"),
    path("<int:pk>/edit/", presets.edit, name="preset-edit"),
    path("<int:pk>/remove/", presets.remove, name="preset-remove"),
    path("<int:pk>/roll-out/", presets.roll_out, name="preset-roll-out"),
]
event_urls: list[URLPattern] = [  # /events/…
    path("", events.index, name="event-index"),
    path("export.csv", events.export, {"kind": "csv"}, name="event-export-csv"),
    path("export.jsonl", events.export, {"kind": "jsonl"}, name="event-export-jsonl"),
    path("verify/", events.verify, name="event-verify"),
]
team_urls: list[URLPattern] = [  # /teams/…
    path("", teams.index, name="team-index"),
    path("new/", teams.new, name="team-new"),
    path("show/", teams.show, name="team-show"),
    path("<slug:team>/", teams.detail, name="team-detail"),
    path("<slug:team>/edit/", teams.edit, name="team-edit"),
    path("<slug:team>/delete/", teams.delete, name="team-delete"),
    path("<slug:team>/leave/", teams.leave, name="team-leave"),
    path("<slug:team>/share/", shares.new, name="team-share-new"),
    path("<slug:team>/hosts/<word:host>/", shares.detail, name="team-share"),
    path("<slug:team>/hosts/<word:host>/edit/", shares.edit, name="team-share-edit"),
    path("<slug:team>/hosts/<word:host>/remove/", shares.remove, name="team-share-remove"),
    path("<slug:team>/members/add/", teams.add_member, name="team-member-add"),
    path("<slug:team>/members/<int:pk>/", teams.edit_member, name="team-member-edit"),
    path("<slug:team>/members/<int:pk>/remove/", teams.remove_member, name="team-member-remove"),
]
account_urls: list[URLPattern] = [  # /settings/…
    path("panel-keys/", enrolments.keys, name="panel-keys"),
    path("panel-keys/<word:what>/", enrolments.ask_keys, name="panel-keys-ask"),
    path("theme/", accounts.theme, name="theme"),
    path("profile/", accounts.profile, name="profile"),
    path("people/", people.index, name="person-index"),
    path("people/<int:pk>/", people.detail, name="person-detail"),
    path("people/<int:pk>/make-administrator/", people.make_administrator, name="person-make-administrator"),
    path("people/<int:pk>/unmake-administrator/", people.unmake_administrator, name="person-unmake-administrator"),
    path("people/<int:pk>/disable/", people.disable, name="person-disable"),
    path("people/<int:pk>/enable/", people.enable, name="person-enable"),
    path("people/<int:pk>/reset-link/", people.reset_link, name="person-reset-link"),
    path("people/<int:pk>/reset-second-factor/", people.reset_factor, name="person-reset-factor"),
    path("invitations/", people.invite, name="invitation-index"),
    path("invitations/<int:pk>/withdraw/", people.withdraw, name="invitation-withdraw"),
    path("tokens/", tokens.index, name="token-index"),
    path("tokens/new/", tokens.new, name="token-new"),
    path("tokens/<int:pk>/revoke/", tokens.revoke, name="token-revoke"),
    path("sessions/", accounts.session_index, name="session-index"),
    path("sessions/end-others/", accounts.end_other_sessions, name="session-end-others"),
    path("sessions/<int:pk>/end/", accounts.end_session, name="session-end"),
]

urlpatterns = [
    path("", home, name="home"),
    path("machines/", include(machine_urls)),
    path("hosts/<word:host>/machines/<word:name>/", include([*one_machine_urls, *doctor_urls, *config_urls])),
    path("hosts/", include(host_urls)),
    path("enrolments/", include(enrolment_urls)),
    path("enrol/<uuid:enrolment>/", enrolments.door, name="enrolment-door"),
    path("jobs/", include(job_urls)),
    path("recipes/", include(recipe_urls)),
    path("presets/", include(preset_urls)),
    path("job-groups/<int:pk>/", presets.group, name="job-group"),
    path("archives/", include(archive_urls)),
    path("teams/", include(team_urls)),
    path("permissions/", permissions.index, name="permission-index"),
    path("restored/", restored.index, name="restored"),
    path("restored/confirm/", restored.confirm, name="restore-confirm"),
    path("events/", include(event_urls)),
    path("transfer/<uuid:archive>/", archives.transfer, name="archive-transfer"),
    path("settings/", include(account_urls)),
    path("api/whoami", tokens.whoami, name="api-whoami"),
    path("invitation/<word:token>/", people.accept, name="invitation"),
]
