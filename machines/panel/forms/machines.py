"""Forms of machines: a new one, and the end of one."""

import zoneinfo
from base64 import b64decode
from functools import cache
from typing import Any

from django import forms

from machines.contract import names, orders, recipes
from machines.contract.configuration.validate import Finding
from machines.contract.problems import BadValue
from machines.contract.reports import Leftover
from machines.models import Host, Job, Machine, Team, User
from machines.panel.forms.validators import CODE, checked, each
from machines.panel.hosts import name_files
from machines.panel.images import builds, passwords
from machines.panel.orders import removals
from machines.panel.teams import shares

LOCALE, ZONE = "C.UTF-8", "UTC"


@cache
def _time_zones() -> set[str]:
    """Those of this machine; looking for them costs half of what the whole form does."""
    return zoneinfo.available_timezones()


class NewMachineForm(forms.Form):
    """A machine to be built: where, under which name, and what it knows before its first start. Of what it is made says
    forms/sources.py."""

    key = forms.UUIDField(widget=forms.HiddenInput)
    host = forms.ModelChoiceField(
        Host.objects.none(),
        to_field_name="name",
        empty_label=None,
        error_messages={"required": "Choose a host for the machine.", "invalid_choice": "There is no such host."},
    )
    team = forms.ModelChoiceField(
        Team.objects.none(),
        to_field_name="slug",
        required=False,
        empty_label="no team: administrators only",
        error_messages={"invalid_choice": "There is no such team, or you may not build in it."},
    )
    name = forms.CharField(
        max_length=64,
        help_text="Lower-case letters, digits and dashes. Also the name of its unit and files.",
        widget=forms.TextInput(attrs={**CODE, "placeholder": "web-1"}),
        error_messages={"required": "Give the machine a name."},
    )
    fresh = forms.BooleanField(
        label="Fresh build instead of a copy of the base image",
        required=False,
        help_text="Takes as long as the first build and installs the latest packages.",
    )
    new_identity = forms.BooleanField(
        label="New identity",
        required=False,
        initial=True,
        help_text="A new machine ID, new SSH host keys and a new random seed. Without it, two machines have the same "
        "identity.",
    )
    hostname = forms.CharField(
        label="Hostname",
        required=False,
        max_length=64,
        help_text="Hostname inside the machine.",
        widget=forms.TextInput(attrs={**CODE, "placeholder": "the machine's name"}),
    )
    root_password = forms.CharField(
        label="Root password",
        required=False,
        strip=False,
        help_text="Only its hash is sent, encrypted for the host. Without one, log in with an SSH key or from the "
        "host.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    user = forms.CharField(
        label="User with sudo",
        required=False,
        max_length=31,
        help_text="May log in with the SSH keys below and become root.",
        widget=forms.TextInput(attrs={**CODE, "placeholder": "ada"}),
    )
    user_password = forms.CharField(
        label="Password of that user",
        required=False,
        strip=False,
        help_text="sudo asks for it. Without one, sudo needs no password.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    ssh_keys = forms.CharField(
        label="SSH keys of root",
        required=False,
        max_length=200_000,
        help_text="One public key per line, as in a .pub file. Add the package openssh-server to use them.",
        widget=forms.Textarea(attrs={**CODE, "rows": 2, "placeholder": "ssh-ed25519 AAAA… you@laptop"}),
    )
    locale = forms.CharField(
        required=False,
        initial=LOCALE,
        max_length=50,
        help_text=f"A clone keeps its own if this is {LOCALE}.",
        widget=forms.TextInput(attrs=CODE),
    )
    timezone = forms.CharField(
        label="Time zone", required=False, initial=ZONE, max_length=60, widget=forms.TextInput(attrs=CODE)
    )
    leftovers = forms.ChoiceField(
        label="Existing files",
        choices=[
            ("keep", "Keep: they apply to the new machine; settings below are written only where no file exists"),
            (
                "replace",
                "Replace: settings below are written; copies are kept on the host in /var/lib/nspawnpanel/removed",
            ),
        ],
        widget=forms.RadioSelect,
        required=False,
    )
    seen = forms.CharField(required=False, max_length=64)  # files_digest of the page that was sent
    start = forms.BooleanField(label="Start after the build", required=False, initial=True)
    enable = forms.BooleanField(label="Start at boot of the host", required=False)

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by = by
        self.fields["host"].queryset = Host.objects.visible_to(by)  # type: ignore[attr-defined]
        self._offer_teams()
        self.found: list[Leftover] = []
        self.files_host = ""
        host, name = self.initial.get("host"), str(self.initial.get("name") or "")
        if not self.is_bound and isinstance(host, Host) and name:
            self._look(host, name)

    def _offer_teams(self) -> None:
        """Nobody who can build in one team alone is asked for it."""
        field = self.fields["team"]
        field.queryset = shares.teams_to_build_in(self.by)  # type: ignore[attr-defined]
        self.own_teams = list(field.queryset)  # type: ignore[attr-defined]
        if not self.by.sees_all:
            field.empty_label, field.required = None, len(self.own_teams) != 1  # type: ignore[attr-defined]
            field.error_messages["required"] = "Choose the team that the machine is to belong to."
        if not self.asks_for_team:
            field.widget = forms.HiddenInput()

    @property
    def asks_for_team(self) -> bool:
        return len(self.own_teams) > 1 or bool(self.by.sees_all and self.own_teams)

    @property
    def chosen_team(self) -> Team | None:
        """The one that the field shows, or that goes without saying."""
        if not self.asks_for_team:
            return next(iter(self.own_teams), None)
        value = self["team"].value()
        slug = value.slug if isinstance(value, Team) else str(value or "")
        first = None if self.by.sees_all else self.own_teams[0]
        return next((team for team in self.own_teams if team.slug == slug), first)

    @property
    def team_choices(self) -> list[tuple[str, str, bool]]:
        """(slug, name, whether it is the one shown) of each that can be chosen."""
        chosen = self.chosen_team
        nobody = [("", str(self.fields["team"].empty_label), chosen is None)] if self.by.sees_all else []  # type: ignore[attr-defined]
        return [*nobody, *((team.slug, team.name, team == chosen) for team in self.own_teams)]

    def _look(self, host: Host, name: str) -> None:
        """What lies under that name on that host, which the page then shows."""
        self.found, self.files_host = name_files.known(host, name), host.name

    @property
    def files_digest(self) -> str:
        """Names what the page shows of them."""
        return name_files.digest(self.found)

    @property
    def name_files(self) -> list[tuple[str, str]]:
        """(path, what it is) of each."""
        return [(file.path, name_files.words(file)) for file in self.found]

    def clean_team(self) -> Team | None:
        """That of somebody who can build in one alone goes without saying."""
        return self.cleaned_data["team"] or (None if self.by.sees_all else self.chosen_team)

    def clean_name(self) -> str:
        return checked(names.new_machine_name, self.cleaned_data["name"])

    def clean_hostname(self) -> str:
        return checked(recipes.hostname, self.cleaned_data["hostname"])

    def clean_root_password(self) -> str:
        """The hash; the text itself ends here."""
        typed = self.cleaned_data["root_password"]
        return checked(passwords.hashed, typed) if typed else ""

    def clean_user(self) -> str:
        return checked(recipes.login, self.cleaned_data["user"])

    def clean_user_password(self) -> str:
        """The hash; the text itself ends here."""
        typed = self.cleaned_data["user_password"]
        if typed and not self.cleaned_data.get("user") and "user" not in self.errors:
            raise forms.ValidationError("Enter a username for this password.")
        return checked(passwords.hashed, typed) if typed else ""

    def clean_ssh_keys(self) -> tuple[str, ...]:
        lines = (line.strip() for line in self.cleaned_data["ssh_keys"].splitlines())
        return each(_ssh_key, (line for line in lines if not line.startswith("#")), at_most=50)

    def clean_locale(self) -> str:
        return checked(recipes.locale, self.cleaned_data["locale"]) or LOCALE

    def clean_timezone(self) -> str:
        zone = checked(recipes.timezone, self.cleaned_data["timezone"]) or ZONE
        known = _time_zones()
        if known and zone not in known:
            raise forms.ValidationError(
                f"There is no time zone “{zone}”. Use UTC or an area and a city, such as Europe/Berlin."
            )
        return zone

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        host, name = cleaned.get("host"), cleaned.get("name")
        if host and name:
            self._look(host, name)
            self._check_files(name)
            if "team" in cleaned and (why := builds.taken(host, name, self.team_id)):
                self.add_error("name", why)
        return cleaned

    @property
    def team_id(self) -> int | None:
        """Whose the machine is to be. The form must have been cleaned."""
        team: Team | None = self.cleaned_data["team"]
        return team.pk if team else None

    def refuse(self, finding: Finding) -> None:
        """Put what a quota does not allow on the field that it was typed in."""
        self.add_error(finding.settings[0], f"{finding.message} {finding.hint}".strip())

    def _check_files(self, name: str) -> None:
        """Somebody decides what becomes of files that lie there, having seen them as they are."""
        given = self.cleaned_data
        if not self.found:
            given["leftovers"] = ""
        elif given.get("seen") != self.files_digest:
            self.add_error("leftovers", f"{self.files_host} already has files for {name}: keep or replace them.")
        elif not given.get("leftovers"):
            self.add_error("leftovers", "Keep or replace them, or choose another name.")

    def to_first_boot(self, *, is_copy: bool) -> recipes.FirstBoot:
        """A copy keeps what nobody has changed here."""
        given = self.cleaned_data
        return recipes.FirstBoot(
            hostname=given["hostname"] or given["name"],
            locale="" if is_copy and given["locale"] == LOCALE else given["locale"],
            timezone="" if is_copy and given["timezone"] == ZONE else given["timezone"],
            ssh_keys=given["ssh_keys"],
            user=given["user"],
            new_identity=given["new_identity"] if is_copy else True,
        )

    def to_order(self, recipe: recipes.AnyRecipe) -> orders.Build:
        """The order but for its configuration, which has a form of its own."""
        given, is_copy = self.cleaned_data, recipe.kind not in recipes.WITH_BASE
        return orders.Build(
            name=given["name"],
            recipe=recipe,
            first_boot=self.to_first_boot(is_copy=is_copy),
            configuration=builds.UNNUMBERED,
            fresh=given["fresh"] and not is_copy,
            start=given["start"],
            enable=given["enable"],
            leftovers=given["leftovers"] or "refuse",
            seen=name_files.seen(self.found),
        )

    def secrets(self, token: str = "") -> recipes.BuildSecrets:
        given = self.cleaned_data
        return recipes.BuildSecrets(
            root_password_hash=given["root_password"], user_password_hash=given["user_password"], token=token
        )


def answers(job: Job) -> dict[str, Any]:
    """What the form for a new machine was told for this build; its passwords are not among it."""
    order = orders.from_wire(job.order)
    assert isinstance(order, orders.Build)
    boot = order.first_boot
    return {
        "host": job.host,
        "team": job.team,
        "name": order.name,
        "fresh": order.fresh,
        "new_identity": boot.new_identity,
        "user": boot.user,
        "hostname": "" if boot.hostname == order.name else boot.hostname,
        "ssh_keys": "\n".join(boot.ssh_keys),
        "locale": boot.locale or LOCALE,
        "timezone": boot.timezone or ZONE,
        "start": order.start,
        "enable": order.enable,
    }


def _ssh_key(text: str) -> str:
    """The contract's check, and whether the key itself says that it is of the kind its line begins with."""
    kind, key = recipes.ssh_key(text).split(" ")[:2]
    try:
        inside = b64decode(key[: len(key) // 4 * 4], validate=True)
    except ValueError:
        inside = b""
    if not inside[4:].startswith(kind.encode()):
        raise BadValue(
            f"“{text[:40]}…” is damaged: it is not a key of type {kind}.", hint="Paste the whole line again."
        )
    return text


class RemoveMachineForm(forms.Form):
    """The name of the machine, typed once more."""

    confirm = forms.CharField(max_length=255, strip=False, widget=forms.TextInput(attrs=CODE))

    def __init__(self, *args: Any, machine: Machine, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.machine = machine
        self.fields["confirm"].label = f"Type {machine.name} to confirm"
        self.fields["confirm"].error_messages["required"] = f"Type {machine.name} to confirm."

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"]
        if typed != self.machine.name:
            raise forms.ValidationError(f"The name does not match. Type {self.machine.name} to confirm.")
        return typed

    def clean(self) -> dict[str, Any] | None:
        if obstacle := removals.obstacle(self.machine):
            raise forms.ValidationError(obstacle)
        return super().clean()
