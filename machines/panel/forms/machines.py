"""Forms of machines: a new one, and the end of one."""

import re
import zoneinfo
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import Any

from django import forms

from machines.contract import names, orders, recipes
from machines.contract.problems import BadValue, Problem
from machines.contract.states import MachineState
from machines.models import Host, Machine
from machines.panel import passwords

RELEASES = {
    "trixie": "Debian 13 trixie",
    "bookworm": "Debian 12 bookworm",
    "bullseye": "Debian 11 bullseye",
    "sid": "Debian unstable sid",
}
CODE = {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}


class NewMachineForm(forms.Form):
    """A machine to be built: where, which system, and what it knows before its first start."""

    key = forms.UUIDField(widget=forms.HiddenInput)
    host = forms.ModelChoiceField(
        Host.objects.all(),
        to_field_name="name",
        empty_label=None,
        error_messages={"required": "Choose the host it shall live on.", "invalid_choice": "There is no such host."},
    )
    name = forms.CharField(
        max_length=64,
        help_text="Lower-case letters, digits and dashes. It is also the name of its unit and files.",
        widget=forms.TextInput(attrs={**CODE, "placeholder": "web-1"}),
        error_messages={"required": "Give the machine a name."},
    )
    release = forms.ChoiceField(
        label="Release", choices=[(word, RELEASES.get(word, word)) for word in recipes.DEBIAN_RELEASES]
    )
    packages = forms.CharField(
        label="Packages to add",
        required=False,
        max_length=20_000,
        help_text="Names, separated by spaces or lines. systemd, dbus and apt are there already.",
        widget=forms.Textarea(attrs={**CODE, "rows": 2, "placeholder": "openssh-server curl"}),
    )
    mirror = forms.CharField(required=False, max_length=500, widget=forms.TextInput(attrs={**CODE, "inputmode": "url"}))
    hostname = forms.CharField(
        label="Host name",
        required=False,
        max_length=64,
        help_text="What it calls itself inside.",
        widget=forms.TextInput(attrs={**CODE, "placeholder": "the machine's name"}),
    )
    root_password = forms.CharField(
        label="Root password",
        required=False,
        strip=False,
        help_text="Only its hash leaves this page, sealed to the host. Without one, log in by SSH key or from the host.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    ssh_keys = forms.CharField(
        label="SSH keys of root",
        required=False,
        max_length=200_000,
        help_text="One public key a line, as in a .pub file. Add the package openssh-server to use them.",
        widget=forms.Textarea(attrs={**CODE, "rows": 2, "placeholder": "ssh-ed25519 AAAA… you@laptop"}),
    )
    locale = forms.CharField(required=False, initial="C.UTF-8", max_length=50, widget=forms.TextInput(attrs=CODE))
    timezone = forms.CharField(
        label="Time zone", required=False, initial="UTC", max_length=60, widget=forms.TextInput(attrs=CODE)
    )
    start = forms.BooleanField(label="Start it when it is built", required=False, initial=True)
    enable = forms.BooleanField(label="Start it whenever the host boots", required=False)

    def clean_name(self) -> str:
        return _checked(names.new_machine_name, self.cleaned_data["name"])

    def clean_packages(self) -> tuple[str, ...]:
        return _each(recipes.package, re.split(r"[\s,]+", self.cleaned_data["packages"]), at_most=500)

    def clean_mirror(self) -> str:
        return _checked(recipes.mirror, self.cleaned_data["mirror"])

    def clean_hostname(self) -> str:
        return _checked(recipes.hostname, self.cleaned_data["hostname"])

    def clean_root_password(self) -> str:
        """The hash; the text itself ends here."""
        typed = self.cleaned_data["root_password"]
        return _checked(passwords.hashed, typed) if typed else ""

    def clean_ssh_keys(self) -> tuple[str, ...]:
        lines = (line.strip() for line in self.cleaned_data["ssh_keys"].splitlines())
        return _each(_ssh_key, (line for line in lines if not line.startswith("#")), at_most=50)

    def clean_locale(self) -> str:
        return _checked(recipes.locale, self.cleaned_data["locale"]) or "C.UTF-8"

    def clean_timezone(self) -> str:
        zone = _checked(recipes.timezone, self.cleaned_data["timezone"]) or "UTC"
        known = zoneinfo.available_timezones()
        if known and zone not in known:
            raise forms.ValidationError(
                f"There is no time zone “{zone}”. Write UTC, or an area and a city: Europe/Berlin."
            )
        return zone

    def clean(self) -> dict[str, Any]:
        """A name may be taken again once its machine was removed, or when its image is gone."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        host, name = cleaned.get("host"), cleaned.get("name")
        if host and name:
            there = Machine.objects.listed().on(host).filter(name=name).exclude(state=MachineState.MISSING)
            if there.exists():
                self.add_error("name", f"{host} has a machine {name} already; choose another name, or remove that one.")
        return cleaned

    def to_order(self, configuration: orders.Configuration) -> orders.Build:
        given = self.cleaned_data
        return orders.Build(
            name=given["name"],
            recipe=recipes.DebianRecipe(release=given["release"], packages=given["packages"], mirror=given["mirror"]),
            first_boot=recipes.FirstBoot(
                hostname=given["hostname"] or given["name"],
                locale=given["locale"],
                timezone=given["timezone"],
                ssh_keys=given["ssh_keys"],
            ),
            configuration=configuration,
            start=given["start"],
            enable=given["enable"],
        )

    def secrets(self) -> recipes.BuildSecrets:
        return recipes.BuildSecrets(root_password_hash=self.cleaned_data["root_password"])


def _checked(check: Callable[[str], str], text: str) -> str:
    """The contract's own check, in the words of a form."""
    try:
        return check(text)
    except Problem as problem:
        raise forms.ValidationError(f"{problem.message} {problem.hint}".strip()) from None


def _each(check: Callable[[str], str], words: Iterable[str], *, at_most: int) -> tuple[str, ...]:
    """Each word once and checked; all that is wrong is said at once."""
    kept, wrong, hints = dict.fromkeys(word for word in words if word), [], set()
    for word in kept:
        try:
            check(word)
        except BadValue as problem:
            said = problem.message if problem.hint in hints else f"{problem.message} {problem.hint}".strip()
            wrong.append(said)
            hints.add(problem.hint)
    if len(kept) > at_most:
        wrong.append(f"At most {at_most}; there are {len(kept)}.")
    if wrong:
        raise forms.ValidationError(wrong[:5])
    return tuple(kept)


def _ssh_key(text: str) -> str:
    """The contract's check, and whether the key itself says that it is of the kind its line begins with."""
    kind, key = recipes.ssh_key(text).split(" ")[:2]
    try:
        inside = b64decode(key[: len(key) // 4 * 4], validate=True)
    except ValueError:
        inside = b""
    if not inside[4:].startswith(kind.encode()):
        raise BadValue(
            f"“{text[:40]}…” is damaged: that is no key of the kind {kind}.", hint="Paste the whole line again."
        )
    return text


class RemoveMachineForm(forms.Form):
    """The name of the machine, typed once more."""

    confirm = forms.CharField(
        label="Name of the machine", max_length=255, strip=False, widget=forms.TextInput(attrs=CODE)
    )

    def __init__(self, *args: Any, machine: Machine, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.machine = machine
        self.fields["confirm"].error_messages["required"] = f"Type {machine.name} to confirm."

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"]
        if typed != self.machine.name:
            raise forms.ValidationError(f"That is not its name. Type {self.machine.name} to confirm.")
        return typed

    def clean(self) -> dict[str, Any] | None:
        if self.machine.shown_state.is_up:
            raise forms.ValidationError(f"{self.machine.name} is {self.machine.state}. Power it off first.")
        return super().clean()
