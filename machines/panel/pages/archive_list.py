"""The list of archives as its page shows it: rows of ready strings."""

from typing import Any

from django.conf import settings
from django.urls import reverse

from machines.contract.permissions import Permission
from machines.contract.quantities import size
from machines.contract.states import MachineState
from machines.models import Archive, Machine, User
from machines.panel.hosts import host_tools
from machines.panel.images import archive_files, archives
from machines.panel.pages.machine_rows import NOBODY_S
from machines.panel.pages.machine_rows import version as version_of

SHOWN = 500


def most(*, by: User) -> str:
    """The largest file that can be taken of this person now, in words."""
    room = archive_files.room() if by.sees_all else min(archive_files.room(), archive_files.share())
    return size(max(0, min(settings.ARCHIVE_LIMIT, room)))


def rows(*, by: User) -> list[dict[str, Any]]:
    """The newest archives that this person sees. What is all there and has no sum yet gets one: the process that was making it may have ended."""
    found = []
    for archive in Archive.objects.shown_to(by).select_related("job__host", "team")[:SHOWN]:
        archive_files.finish(archive)
        found.append(_row(archive) | {"may_build": by.may_in(Permission.BUILD, archive.team_id)})
    return found


def _row(archive: Archive) -> dict[str, Any]:
    job = archive.job
    arriving = archive.state == Archive.State.ARRIVING
    return {
        "pk": str(archive.pk),
        "title": archive.title,
        "team": archive.team.name if archive.team else NOBODY_S,
        "format": archive.format,
        "state": archive.state,
        "size": size(archive.size) if archive.size else "–",
        "percent": int(100 * archive.received / archive.size) if arriving and archive.size else None,
        "received": size(archive.received),
        "checking": arriving and 0 < archive.size == archive.received,
        "sha256": archive.sha256,
        "settings": bool(archive.nspawn_text or archive.limits_text),
        "by": archive.author_name,
        "at": archive.created_at,
        "job": job.pk if job else None,
        "machine": f"{job.machine_name} on {job.host.name}" if job else "",
        "content": reverse("archive-content", args=[archive.pk]),
        "remove": reverse("archive-remove", args=[archive.pk]),
        "make": f"{reverse('machine-new')}?archive={archive.pk}",
        "ready": archive.state == Archive.State.READY,
        "arriving": arriving,
    }


def version(shown: list[dict[str, Any]], unfinished: int) -> str:
    return version_of([row | {"at": None} for row in shown], unfinished)


def export_words(machine: Machine) -> dict[str, Any]:
    """What an export of this machine means, before it is ordered; `cannot` when it could only fail."""
    text, up = "", machine.shown_state.is_up
    if not archives.has_address():
        text = "The panel does not know the URL hosts reach it at. An administrator has to set NSPAWNPANEL_URL first."
    elif machine.state == MachineState.MISSING:
        text = f"The image of {machine.name} is gone from {machine.host.name}."
    elif lacking := host_tools.lacking_for(machine.host, "export"):
        text = lacking
    elif up and machine.image_type != "subvolume":
        text = (
            f"{machine.name} is {machine.state}, and its files would change while they are packed. Power it off first."
        )
    if text:
        return {"text": text, "cannot": True}
    what = "disk image" if machine.image_type == "raw" else "root filesystem"
    takes = (
        f" It uses {size(machine.disk_bytes)} there; the archive usually takes about a third of that."
        if machine.disk_bytes
        else ""
    )
    return {
        "text": f"Its {what} is packed on {machine.host.name} and uploaded to the panel as a file.{takes}",
        "items": [
            *(
                ["It keeps running: a snapshot is packed, in the state it would have after a power failure."]
                if up
                else []
            ),
            "Its settings are included; a new machine made from the archive can use them."
            if machine.image_type != "raw"
            else "Its settings are kept with the archive on this panel: a disk image cannot contain them.",
            "The file contains everything: passwords, keys, data. Only users who may build can download it.",
        ],
        "cannot": False,
    }
