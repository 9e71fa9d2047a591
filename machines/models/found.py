"""What a host last told of a machine's files, and of what holds of its limits and settings."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils import timezone

from machines.models.machine import Machine

ETC = "/etc/systemd/nspawn/"
RUN = "/run/systemd/nspawn/"
OURS = "50-nspawnpanel.conf"


@dataclass(frozen=True)
class File:
    """One file of a host (contract.reports.FoundFile), as it lay there."""

    path: str
    kind: str
    form: str
    text: str
    sha256: str
    size: int
    changed: float
    error: str
    target: str  # where it leads when it is a link

    @property
    def is_plain(self) -> bool:
        """Whether `text` is the whole file."""
        return self.form == "text"

    @property
    def is_trusted(self) -> bool:
        """systemd leaves out what gives privileges from a .nspawn file that lies beside its image."""
        return self.kind != "nspawn" or self.path.startswith((ETC, RUN))

    @property
    def is_ours(self) -> bool:
        """The drop-in that the panel writes."""
        return (
            self.kind == "dropin" and self.path.endswith(f".service.d/{OURS}") and "/system.control/" not in self.path
        )

    @property
    def is_leftover(self) -> bool:
        """What `systemctl set-property` left."""
        return self.kind == "dropin" and "/system.control/" in self.path

    @property
    def bytes(self) -> bytes:
        """The file's own bytes; b"" when they were not told."""
        return b64decode(self.text) if self.form == "base64" else self.text.encode()


class ObservedFiles(models.Model):
    machine = models.OneToOneField(Machine, on_delete=models.CASCADE, related_name="observed_files")
    at = models.DateTimeField(default=timezone.now)
    told = models.JSONField(default=list)  # [contract.reports.FoundFile, …]
    needs_reload = models.BooleanField(default=False)
    shown = models.JSONField(default=dict)  # property → what systemd has
    kernel = models.JSONField(default=dict)  # property → what the control group has
    lacks = models.JSONField(default=dict)  # property → the file that the control group does not have
    inside = models.JSONField(default=dict)  # setting → what the kernel says of the first process
    size = models.PositiveIntegerField(default=0)  # characters of all of it, for its host's budget
    # Not 0 while the count of settings that are not in effect waits to be made anew (panel/configs/effective_settings.py)
    stale = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["machine"], condition=models.Q(stale__gt=0), name="observed_files_stale")]

    def __str__(self) -> str:
        return f"files of {self.machine_id}"

    @property
    def files(self) -> list[File]:
        return [_file(each) for each in self.told]

    @property
    def nspawn_files(self) -> list[File]:
        """In systemd's order of search; the first one counts."""
        return [file for file in self.files if file.kind == "nspawn"]

    @property
    def counting(self) -> File | None:
        """The .nspawn file that counts."""
        return next(iter(self.nspawn_files), None)

    @property
    def dropins(self) -> list[File]:
        """In the order in which systemd reads them; the last one wins."""
        return [file for file in self.files if file.kind == "dropin"]

    @property
    def unit(self) -> File | None:
        return next((file for file in self.files if file.kind == "unit"), None)

    @property
    def ours(self) -> File | None:
        """Our own drop-in, if it is there."""
        return next((file for file in self.dropins if file.is_ours), None)


def _file(told: dict[str, Any]) -> File:
    return File(
        **{name: told.get(name, 0 if name in {"size", "changed"} else "") for name in File.__dataclass_fields__}
    )
