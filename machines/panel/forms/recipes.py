"""Recipes as forms: one class per kind, for the recipe editor and for the page of a new machine.

Each turns what was typed into a contract.recipes model (`to_recipe`) and such a model into what stands in the form
(`initial_from`). What systems there are, and which form is for each, stands in SYSTEMS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django import forms
from django.http import QueryDict
from pydantic import BaseModel, ValidationError

from machines.contract import recipes
from machines.panel.forms.validators import checked, code_field, each, errors_of, words

PACKAGES_AT_MOST = 500
REPOSITORIES_AT_MOST = 10
RELEASES = {
    "trixie": "Debian 13 trixie",
    "bookworm": "Debian 12 bookworm",
    "bullseye": "Debian 11 bullseye",
    "sid": "Debian unstable sid",
    "resolute": "Ubuntu 26.04 resolute",
    "noble": "Ubuntu 24.04 noble",
    "jammy": "Ubuntu 22.04 jammy",
}
VARIANTS = [
    ("minbase", "minbase: essential packages and apt"),
    ("apt", "apt: only what apt itself needs"),
    ("important", "important: a usual small server"),
    ("standard", "standard: with the tools of a full server"),
]
TOOLS = [
    ("", "mmdebstrap where installed, else debootstrap"),
    ("mmdebstrap", "mmdebstrap"),
    ("debootstrap", "debootstrap"),
]
PRIME_HELP = "The base image is booted once and its identity reset before it is kept: machines from it start faster."
TRIM_HELP = (
    "Units and generators a machine does not need are masked, and logind starts at the first login: "
    "every start takes a third less time and CPU. The job’s log lists them all."
)
KEY_ROWS = 3
FOLDED = ("variant", "components", "tool", "proxy", "prime", "trim")  # what few recipes need
SUITE_SAID = "A suite looks like trixie, bookworm-backports or stable/updates."
ID_SAID = "The short name of a repository has letters, digits, dots, dashes and underscores: base, epel."

_Recipe = TypeVar("_Recipe", bound=BaseModel)


# --- rows of repositories


class AptRepositoryForm(forms.Form):
    uri = code_field("Address", placeholder="https://packages.example/debian")
    suite = code_field("Suite", placeholder="trixie", max_length=81)
    components = code_field("Components", placeholder="main")
    key = code_field(
        "Signing key", rows=KEY_ROWS, placeholder="-----BEGIN PGP PUBLIC KEY BLOCK-----", max_length=40_000
    )

    def clean_uri(self) -> str:
        uri = checked(recipes.mirror, self.cleaned_data["uri"])
        if not uri:
            raise forms.ValidationError("Give the URL of the repository, or remove the row.")
        return uri

    def clean_suite(self) -> str:
        return checked(recipes.suite, self.cleaned_data["suite"])

    def clean_components(self) -> tuple[str, ...]:
        return each(recipes.component, words(self.cleaned_data["components"]), at_most=20)

    def clean_key(self) -> str:
        return checked(recipes.openpgp_key, self.cleaned_data["key"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        _fits(self, recipes.AptRepository, {"suite": SUITE_SAID})
        return cleaned

    def value(self) -> recipes.AptRepository:
        return recipes.AptRepository(**_without_rows_own(self.cleaned_data))


class RpmRepositoryForm(forms.Form):
    id = code_field("Short name", placeholder="base", max_length=61)
    url = code_field("Address", placeholder="https://mirror.example/$releasever/BaseOS/$basearch/os/")
    key = code_field(
        "Signing key", rows=KEY_ROWS, placeholder="-----BEGIN PGP PUBLIC KEY BLOCK-----", max_length=40_000
    )

    def clean_url(self) -> str:
        url = checked(recipes.one_address, self.cleaned_data["url"])
        if not url:
            raise forms.ValidationError("Give the URL of the repository, or remove the row.")
        return url

    def clean_key(self) -> str:
        key = checked(recipes.openpgp_key, self.cleaned_data["key"])
        if not key:
            raise forms.ValidationError("Paste its public key: packages without a valid signature are never installed.")
        return key

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        _fits(self, recipes.RpmRepository, {"id": ID_SAID})
        return cleaned

    def value(self) -> recipes.RpmRepository:
        return recipes.RpmRepository(**_without_rows_own(self.cleaned_data))


def _without_rows_own(cleaned: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cleaned.items() if name not in {"DELETE", "ORDER"}}


def _fits(form: forms.Form, model: type[BaseModel], said: Mapping[str, str]) -> None:
    """Put what the model itself refuses on the field it is about."""
    if form.errors or form.cleaned_data.get("DELETE"):
        return
    try:
        model(**_without_rows_own(form.cleaned_data))
    except ValidationError as error:
        for each_error in error.errors():
            name = str(each_error["loc"][0]) if each_error["loc"] else ""
            form.add_error(name if name in form.fields else None, said.get(name, each_error["msg"]))


_ROWS: dict[str, Any] = {
    "extra": 0, "can_delete": True, "can_order": True,
    "max_num": REPOSITORIES_AT_MOST, "validate_max": True, "absolute_max": 2 * REPOSITORIES_AT_MOST,
}  # fmt: skip
AptRepositories = forms.formset_factory(AptRepositoryForm, **_ROWS)
RpmRepositories = forms.formset_factory(RpmRepositoryForm, **_ROWS)


# --- one form per kind


class SourceForm(forms.Form, Generic[_Recipe]):
    """What all kinds share. `system` is the word of SYSTEMS it was made for; `repositories` its rows, if it has any."""

    rows: Any = None
    folds_rows = False
    has_base = True  # what its tools make is kept and copied (contract.recipes.WITH_BASE)

    def __init__(self, data: Mapping[str, Any] | None = None, *, system: str, **kwargs: Any) -> None:
        self.system = system
        initial = kwargs.get("initial") or {}
        super().__init__(data if data is None else self._with_defaults(data), **kwargs)
        self.repositories = None
        if self.rows:
            given = {"initial": initial.get("repositories") or None}
            bound = data if data is not None and "repositories-TOTAL_FORMS" in data else None
            self.repositories = self.rows(bound, prefix="repositories", **given)

    def _with_defaults(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """A field that was not on the page that sent this stands as it stands in a new form."""
        absent = {n: f.initial for n, f in self.base_fields.items() if n not in data and f.initial}
        if not absent:
            return data
        filled = data.copy() if isinstance(data, QueryDict) else QueryDict(mutable=True)
        if not isinstance(data, QueryDict):
            filled.update(data)
        filled.update({name: str(value) for name, value in absent.items()})
        return filled

    def is_valid(self) -> bool:
        rows = self.repositories is None or not self.repositories.is_bound or self.repositories.is_valid()
        return super().is_valid() and rows

    def trouble(self) -> list[tuple[str, str, str]]:
        """(id of the control, label, sentence) for everything that is wrong, rows included."""
        found = errors_of(self)
        if self.repositories is not None and self.repositories.is_bound:
            found += [("", "Repositories", str(text)) for text in self.repositories.non_form_errors()]
            for number, row in enumerate(self._living(), 1):
                found += errors_of(row, f"Repository {number}, ")
        return found

    def clear_errors(self) -> None:
        """Say nothing of what is wrong: the page was sent to change its shape, not to be taken."""
        self.errors.clear()
        self.reset_incompatible()
        if self.repositories is not None and self.repositories.is_bound:
            for row in self.repositories.forms:
                row.errors.clear()

    @property
    def unusual(self) -> bool:
        """Whether one of the fields that are folded away says something, or is wrong."""
        fields = [self[name] for name in FOLDED if name in self.fields]
        rows = bool(self.repositories is not None and self.folds_rows and self.repositories.forms)
        return rows or any(f.errors or (f.value() or "") != (f.field.initial or "") for f in fields)

    def reset_incompatible(self) -> None:
        """Drop what another system's form had in a field of the same name."""

    def _living(self) -> list[Any]:
        """The rows that were filled in and not taken away, in the order of the page."""
        if self.repositories is None or not self.repositories.is_bound:
            return []
        gone = [row for row in self.repositories.forms if row.data.get(row.add_prefix("DELETE"))]
        return [row for row in self.repositories.forms if row.has_changed() and row not in gone]

    def values(self) -> dict[str, Any]:
        """What the model is made of."""
        found = dict(self.cleaned_data)
        if self.repositories is not None:
            found["repositories"] = tuple(row.value() for row in self._living())
        return found

    def to_recipe(self) -> recipes.AnyRecipe:
        raise NotImplementedError

    @classmethod
    def initial_from(cls, recipe: Any) -> dict[str, Any]:
        """What stands in the form for a recipe of this kind."""
        found: dict[str, Any] = recipe.model_dump(exclude={"kind", "distribution"})
        for name in ("packages", "components"):
            if name in found:
                found[name] = " ".join(found[name])
        for row in found.get("repositories", ()):
            if "components" in row:
                row["components"] = " ".join(row["components"])
        return found


class _Tuned(forms.Form):
    """The end of every recipe of packages."""

    proxy = code_field("Proxy", placeholder="http://proxy.example:3128", help_text="Empty: as configured on the host.")
    prime = forms.BooleanField(label="Pre-boot base image", required=False, help_text=PRIME_HELP)
    trim = forms.BooleanField(label="Slim base image", required=False, help_text=TRIM_HELP)

    def clean_proxy(self) -> str:
        return checked(recipes.proxy, self.cleaned_data["proxy"])


class DebianForm(_Tuned, SourceForm[recipes.DebianRecipe]):
    rows = AptRepositories
    folds_rows = True
    template = "recipes/_debian.html"

    release = forms.ChoiceField(label="Release")
    variant = forms.ChoiceField(choices=VARIANTS, initial="minbase")
    components = code_field("Components", initial="main", help_text="Of the distribution's own repository.")
    packages = code_field(
        "Additional packages",
        placeholder="openssh-server curl",
        rows=2,
        max_length=20_000,
        help_text="Names, separated by spaces or line breaks. systemd, dbus and apt are always installed.",
    )
    mirror = code_field("Mirror", help_text="Empty: the mirror the host itself uses.")
    tool = forms.ChoiceField(label="Built by", choices=TOOLS, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = recipes.UBUNTU_RELEASES if self.system == "ubuntu" else recipes.DEBIAN_RELEASES
        self.fields["release"].choices = [(word, RELEASES.get(word, word)) for word in known]  # type: ignore[attr-defined]
        self.fields["mirror"].widget.attrs["inputmode"] = "url"

    def clean_components(self) -> tuple[str, ...]:
        return each(recipes.component, words(self.cleaned_data["components"]), at_most=10) or ("main",)

    def clean_packages(self) -> tuple[str, ...]:
        return each(recipes.package, words(self.cleaned_data["packages"]), at_most=PACKAGES_AT_MOST)

    def clean_mirror(self) -> str:
        return checked(recipes.mirror, self.cleaned_data["mirror"])

    def to_recipe(self) -> recipes.DebianRecipe:
        return recipes.DebianRecipe(distribution=self.system, **self.values())


class _OtherPackages(_Tuned):
    packages = code_field(
        "Additional packages",
        placeholder="openssh-server vim-minimal",
        rows=2,
        max_length=20_000,
        help_text="Names, separated by spaces or line breaks. systemd, dbus and the package manager are "
        "always installed.",
    )

    def clean_packages(self) -> tuple[str, ...]:
        return each(recipes.other_package, words(self.cleaned_data["packages"]), at_most=PACKAGES_AT_MOST)


class RpmForm(_OtherPackages, SourceForm[recipes.DnfRecipe]):
    rows = RpmRepositories
    template = "recipes/_rpm.html"

    release = code_field("Release", required=True, max_length=20, error_messages={"required": "Give a release."})
    field_order = ["release", "packages"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["packages"].help_text += " A group begins with @: @core."
        usual = RPM_RELEASES[self.system]
        self.fields["release"].initial = usual
        self.fields["release"].help_text = f"Such as {usual}."

    def reset_incompatible(self) -> None:
        of_others = {*RELEASES, *RPM_RELEASES.values()}
        if self.data.get("release", "") in {"", *of_others}:
            self.data = {**{name: self.data[name] for name in self.data}, "release": RPM_RELEASES[self.system]}

    def clean_release(self) -> str:
        return checked(recipes.version, self.cleaned_data["release"])

    def to_recipe(self) -> recipes.AnyRecipe:
        return recipes.DnfRecipe(distribution=self.system, **self.values())


class SuseForm(RpmForm):
    def to_recipe(self) -> recipes.SuseRecipe:
        return recipes.SuseRecipe(**self.values())


class ArchForm(_OtherPackages, SourceForm[recipes.ArchRecipe]):
    template = "recipes/_arch.html"

    mirror = code_field("Mirror", help_text="Empty: the host's own mirror list.")
    field_order = ["packages", "mirror"]

    def clean_mirror(self) -> str:
        return checked(recipes.mirror, self.cleaned_data["mirror"])

    def to_recipe(self) -> recipes.ArchRecipe:
        return recipes.ArchRecipe(**self.values())


VERIFY = {
    "signature": "By signature: SHA256SUMS next to the image, signed by a key the host trusts",
    "sha256": "By its SHA-256 checksum, given below",
    "none": "No verification",
}


class PullForm(SourceForm[recipes.PullRecipe]):
    """`may_skip` offers “no verification”, which only hosts whose policy allows it carry out."""

    template = "recipes/_pull.html"
    has_base = False

    url = code_field(
        "Image URL",
        placeholder="https://images.example/debian-13.tar.xz",
        required=True,
        error_messages={"required": "Give the URL of the image; it begins with http:// or https://."},
    )
    format = forms.ChoiceField(choices=[("tar", "tar: a root filesystem"), ("raw", "raw: a disk image")], initial="tar")
    verify = forms.ChoiceField(label="Verified", choices=VERIFY.items(), initial="signature", widget=forms.RadioSelect)
    sha256 = code_field("SHA-256 checksum", max_length=100)

    def __init__(self, *args: Any, may_skip: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["url"].widget.attrs["inputmode"] = "url"
        if not may_skip:
            offered = [(word, text) for word, text in VERIFY.items() if word != "none"]
            self.fields["verify"].choices = offered  # type: ignore[attr-defined]

    def clean_url(self) -> str:
        return checked(recipes.address, self.cleaned_data["url"])

    def clean_sha256(self) -> str:
        return checked(recipes.sha256, self.cleaned_data["sha256"].strip().lower())

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("verify") == "sha256" and not cleaned.get("sha256") and "sha256" not in self.errors:
            self.add_error("sha256", "Give the checksum the image must have; its publisher lists it next to the image.")
        return cleaned

    def to_recipe(self) -> recipes.PullRecipe:
        given = self.values()
        given["sha256"] = given["sha256"] if given["verify"] == "sha256" else ""
        return recipes.PullRecipe(**given)


# --- which form is for what


@dataclass(frozen=True)
class System:
    """One thing a recipe may be of."""

    title: str
    form: type[SourceForm[Any]]


SYSTEMS: dict[str, System] = {
    "debian": System("Debian", DebianForm),
    "ubuntu": System("Ubuntu", DebianForm),
    "fedora": System("Fedora", RpmForm),
    "centos": System("CentOS Stream", RpmForm),
    "almalinux": System("AlmaLinux", RpmForm),
    "rocky": System("Rocky Linux", RpmForm),
    "arch": System("Arch Linux", ArchForm),
    "opensuse": System("openSUSE", SuseForm),
    "pull": System("Image from a URL", PullForm),
}
DISTRIBUTIONS = {word: system.title for word, system in SYSTEMS.items() if word != "pull"}
RPM_RELEASES = {"fedora": "44", "centos": "10-stream", "almalinux": "10", "rocky": "10", "opensuse": "16.0"}
_OF_KIND = {"arch": "arch", "suse": "opensuse", "pull": "pull"}


def system_of(recipe: recipes.AnyRecipe) -> str:
    """The word of SYSTEMS a recipe is of; "" for what is never saved (archives, clones)."""
    if isinstance(recipe, recipes.DebianRecipe | recipes.DnfRecipe):
        return recipe.distribution
    return _OF_KIND.get(recipe.kind, "")


def form_for(system: str, data: Mapping[str, Any] | None = None, **kwargs: Any) -> SourceForm[Any]:
    """The form of a system, Debian's for a word nobody knows."""
    word = system if system in SYSTEMS else "debian"
    if SYSTEMS[word].form is not PullForm:
        kwargs.pop("may_skip", None)
    return SYSTEMS[word].form(data, system=word, **kwargs)


def filled(recipe: recipes.AnyRecipe, **kwargs: Any) -> SourceForm[Any]:
    """The form of a recipe with what it says in it."""
    system = system_of(recipe)
    return form_for(system, initial=SYSTEMS[system].form.initial_from(recipe), **kwargs)
