"""What is said of a file before its first part is sent."""

import re
from typing import Any

from django import forms

from machines.contract.permissions import Permission
from machines.models import Archive, User
from machines.panel.forms.team_choice import TeamChoiceField

PACKED = r"(\.(gz|xz|zst|bz2))?"
ENDINGS = {
    "tar": re.compile(rf"\.(tar{PACKED}|tgz|txz|tzst|tbz2?)", re.IGNORECASE),
    "raw": re.compile(rf"\.(raw|img){PACKED}", re.IGNORECASE),
}
WHAT = {"tar": "a root filesystem (tar)", "raw": "a disk image"}


class BeginForm(forms.Form):
    title = forms.CharField(max_length=200, error_messages={"max_length": "The name of the file is too long."})
    format = forms.ChoiceField(choices=Archive.Format.choices)
    size = forms.IntegerField(min_value=0, max_value=2**53)

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["team"] = TeamChoiceField(by, Permission.BUILD)

    def clean_title(self) -> str:
        """Browsers give the name alone; a path is cut down to it, and what no header can carry is left out."""
        name = str(self.cleaned_data["title"]).replace("\\", "/").rsplit("/", 1)[-1]
        return "".join(character for character in name if character.isprintable()) or "archive"

    def clean(self) -> dict[str, Any]:
        """A file is what its name says: nothing else tells a person's mistake before it has travelled."""
        cleaned = super().clean() or self.cleaned_data
        name, form = cleaned.get("title", ""), cleaned.get("format", "")
        kinds = [kind for kind, ending in ENDINGS.items() if re.search(rf"{ending.pattern}\Z", name, re.IGNORECASE)]
        if name and form and not kinds:
            raise forms.ValidationError(
                f"The name {name} is not that of a root filesystem or disk image. Expected: .tar, .raw or .img, "
                "plain or compressed (.gz, .xz, .zst, .bz2), or .tgz and the like."
            )
        if name and form and form not in kinds:
            raise forms.ValidationError(f"Going by its name, {name} is {WHAT[kinds[0]]}; choose that under “Type”.")
        return cleaned
