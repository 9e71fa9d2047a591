"""The files behind archives: DATA/archives/<id>, brought in order in small parts, so that whatever stops an upload, it goes on
from there, and neither a proxy nor this process ever holds a whole one.

Facts: under ASGI Django keeps a request's body in a file before any view sees it, so one big body would be written twice and
bounded by nobody. An answer made of a plain iterator is read into memory whole there; an asynchronous one is not.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from machines.contract.configuration import carried
from machines.contract.problems import BadValue, Problem
from machines.contract.quantities import size as shown_size
from machines.models import Archive, Job, Team, User
from machines.models.archive import ArchiveQuerySet
from machines.panel.images import archive_audit

log = logging.getLogger(__name__)

PART = 8 * 1024 * 1024  # bytes of one part, at most
RESERVE = 1024**3  # bytes that stay free for the database
AT_ONCE = 64 * 1024 * 1024  # up to here the sum is made while the last part waits for its answer
ABANDONED = timedelta(days=7)
NEVER_BEGUN = timedelta(hours=1)  # an upload of which no byte came
OPEN_OF_PERSON, OPEN_OF_TEAM = 5, 20  # uploads at once that have not ended
_PIECE = 1024 * 1024


class OutOfStep(Problem):
    """A part that does not follow what is there; `received` is where to go on."""

    code = "out-of-step"

    def __init__(self, received: int) -> None:
        super().__init__("This is not the expected part.")
        self.received = received


def path_of(archive: UUID) -> Path:
    return Path(settings.DATA_DIR) / "archives" / str(archive)


# --- room


def room() -> int:
    """Bytes that one more archive may take: what is free and not promised to others that are still arriving."""
    free = shutil.disk_usage(_folder()).free - RESERVE
    arriving = Archive.objects.filter(state=Archive.State.ARRIVING)
    return free - (arriving.aggregate(rest=Sum(F("size") - F("received")))["rest"] or 0)


def check_size(size: int) -> None:
    """Raises BadValue when an archive of so many bytes is too large, Problem when the disk is too small for it."""
    if size < 1:
        raise BadValue("The file is empty.", field="size")
    if size > settings.ARCHIVE_LIMIT:
        raise BadValue(
            f"The file has {shown_size(size)}; the panel accepts archives up to {shown_size(settings.ARCHIVE_LIMIT)}.",
            hint="NSPAWNPANEL_ARCHIVE_GIB sets the limit. Or pull the image from a URL.",
            field="size",
        )
    if size > room():
        raise Problem(
            f"There is not enough disk space on the panel for {shown_size(size)}; {shown_size(max(0, room()))} is available.",
            hint="Remove archives that are no longer needed.",
            code="no-space",
        )


def share() -> int:
    """Bytes that the uploads of one person, and of one team, may have announced and not sent: the rest is for others."""
    return max(0, shutil.disk_usage(_folder()).free - RESERVE) // 2


def check_share(by: User, team: Team | None) -> None:
    """Raises Problem when this person, or the team, has too much announced that has not come. Bytes do not bind administrators
    of the installation."""
    _check_open(_open_uploads().filter(author=by), "You have", OPEN_OF_PERSON, is_bound=not by.sees_all)
    if team is not None:
        _check_open(_open_uploads().filter(team=team), f"Team {team} has", OPEN_OF_TEAM, is_bound=not by.sees_all)


def _open_uploads() -> ArchiveQuerySet:
    return Archive.objects.filter(state=Archive.State.ARRIVING, job=None, received__lt=F("size"))


def _check_open(uploads: ArchiveQuerySet, whose: str, most: int, *, is_bound: bool) -> None:
    """`uploads` have the new one among them."""
    found = uploads.aggregate(count=Count("pk"), rest=Sum(F("size") - F("received")))
    if found["count"] > most:
        raise Problem(
            f"{whose} {most} unfinished uploads already.",
            hint="Finish or remove one of them first.",
            code="too-many-uploads",
        )
    if is_bound and (found["rest"] or 0) > share():
        raise Problem(
            f"{whose} announced {shown_size(found['rest'])} with this upload that the panel has yet to receive; "
            f"{shown_size(share())} is the most, half of its free disk space.",
            hint="Finish or remove other uploads first, or ask an administrator to upload it.",
            code="no-space",
        )


def _folder() -> Path:
    folder = Path(settings.DATA_DIR) / "archives"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


# --- arriving


def begin(title: str, form: str, size: int, *, by: User, team: Team | None) -> Archive:
    """A new archive to be sent in parts, or the one that this person began with the same file. Raises Problem."""
    forget_abandoned()
    same = {"title": title, "format": form, "size": size, "author": by, "team": team, "job": None}
    begun = Archive.objects.filter(state=Archive.State.ARRIVING, **same).first()
    if begun is not None:
        return begun
    check_size(size)
    archive = Archive.objects.create(**same, author_name=by.username)
    try:
        check_share(by, team)  # when it is there: of several at once the last one sees all
    except Problem:
        remove(archive)
        raise
    return archive


def announce(archive: Archive, size: int) -> None:
    """How large an export turned out to be, said with its first part. Raises Problem."""
    if archive.size == 0:
        check_size(size)
        Archive.objects.filter(pk=archive.pk, size=0).update(size=size)
    elif archive.size != size:
        raise BadValue("The file's size differs from the announced one.", field="size")


def add(archive: Archive, offset: int, part: bytes) -> Archive:
    """Take the part that begins at `offset`; the archive as it is then. Raises OutOfStep, BadValue, Problem, OSError."""
    with _open(archive.pk) as fd:
        archive = arriving(archive.pk)
        if offset != archive.received:
            raise OutOfStep(archive.received)
        end = offset + len(part)
        if end > archive.size:
            raise BadValue("That exceeds the announced size.", field="size")
        if os.fstat(fd).st_size < offset:
            _spoilt(archive.pk)
            raise Problem(
                "The part of this archive that was already uploaded is gone from the panel's disk.", hint="Start again."
            )
        os.ftruncate(fd, offset)  # what a part left here that was cut off before it counted
        _write(fd, part, offset)
        ours = Archive.objects.filter(pk=archive.pk, state=Archive.State.ARRIVING, received=offset)
        if not ours.update(received=end):
            raise OutOfStep(arriving(archive.pk).received)
        archive.received = end
    return finish(archive)


def arriving(archive: UUID) -> Archive:
    """Raises Problem archive-gone when it was removed, or is complete."""
    found = Archive.objects.filter(pk=archive, state=Archive.State.ARRIVING).first()
    if found is None:
        with contextlib.suppress(OSError):
            if not Archive.objects.filter(pk=archive).exists():
                path_of(archive).unlink()
        raise Problem("This archive has been removed in the meantime, or its upload is complete.", code="archive-gone")
    return found


@contextlib.contextmanager
def _open(archive: UUID) -> Iterator[int]:
    """The archive's file for one writer at a time, whichever process it is in. Raises Problem archive-busy."""
    _folder()
    fd = os.open(path_of(archive), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    except BlockingIOError:
        raise Problem("Another part is being written just now.", code="archive-busy", retryable=True) from None
    finally:
        os.close(fd)


def _write(fd: int, part: bytes, offset: int) -> None:
    rest = memoryview(part)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


# --- complete


def finish(archive: Archive) -> Archive:
    """All is there: make its sum, at once or, for a large one, in a thread. Called again, it goes on where it stopped."""
    if archive.state != Archive.State.ARRIVING or archive.sha256 or not 0 < archive.size == archive.received:
        return archive
    if archive.size > AT_ONCE:
        threading.Thread(target=_sum_in_thread, args=(archive.pk,), name=f"sum-{archive.pk}", daemon=True).start()
    else:
        make_sum(archive.pk)
        archive.refresh_from_db()
    return archive


def _sum_in_thread(archive: UUID) -> None:
    try:
        make_sum(archive)
    except Exception:
        log.exception("The sum of archive %s could not be made", archive)
    finally:
        connection.close()


def make_sum(archive: UUID) -> None:
    """The SHA-256 of a file that is all there and safe on disk. One that somebody brought by hand is ready with it, one of an
    export when its job says so (finalize)."""
    with contextlib.suppress(Problem), _open(archive) as fd, os.fdopen(os.dup(fd), "rb") as file:
        os.fsync(fd)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found = arriving(archive)
        if os.fstat(fd).st_size != found.size:
            _spoilt(archive)
            return
        state = Archive.State.READY if found.job_id is None else Archive.State.ARRIVING
        settings = _settings(file) if found.job_id is None else {}
        whole = Archive.objects.filter(pk=archive, state=Archive.State.ARRIVING, received=F("size"))
        with transaction.atomic():
            if whole.update(sha256=sha256, state=state, **settings) and state == Archive.State.READY:
                found.sha256 = sha256
                archive_audit.uploaded(found)


def _settings(file: IO[bytes]) -> dict[str, str]:
    """What an upload says of itself at its front; it is anybody's word until a person has seen it."""
    file.seek(0)
    said = carried.read(file.read(carried.LOOKED_AT))
    return {"nspawn_text": said.nspawn, "limits_text": said.limits}


def _spoilt(archive: UUID) -> None:
    Archive.objects.filter(pk=archive, state=Archive.State.ARRIVING).update(state=Archive.State.FAILED)


def finalize(job: Job, result: Mapping[str, Any] = MappingProxyType({})) -> None:
    """An export has ended: its archive is ready when what arrived is what the host sent, else it goes."""
    settings = {"nspawn_text": _told(result, "nspawn"), "limits_text": _told(result, "limits")}
    for archive in job.archives.filter(state=Archive.State.ARRIVING):
        if archive.sha256 and archive.sha256 == result.get("sha256"):
            Archive.objects.filter(pk=archive.pk).update(state=Archive.State.READY, **settings)
            archive_audit.exported(archive, job)
        else:
            remove(archive)


def _told(result: Mapping[str, Any], name: Literal["nspawn", "limits"]) -> str:
    """A text of the machine's settings that its host told; "" for what is none, or longer than one may be."""
    text = result.get(name, "")
    return text if isinstance(text, str) and len(text) <= carried.LONGEST[name] else ""


# --- going


def remove(archive: Archive) -> None:
    """The row first: a file without one is nobody's (forget_abandoned)."""
    Archive.objects.filter(pk=archive.pk).delete()
    _unlink(path_of(archive.pk))


def _unlink(file: Path) -> None:
    """What cannot be removed keeps nothing else from going; it is tried again every hour."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s belongs to no archive and could not be removed: %s", file, error.strerror)


def forget_abandoned() -> None:
    """Remove uploads nobody goes on with, and files whose archive is gone: before each upload, and every hour."""
    old = Archive.objects.filter(
        Q(received__lt=F("size")) | Q(size=0),
        Q(created_at__lt=timezone.now() - ABANDONED) | Q(received=0, created_at__lt=timezone.now() - NEVER_BEGUN),
        state=Archive.State.ARRIVING, job=None,
    )  # fmt: skip
    for archive in old:
        log.info("Upload %s (%s) was never finished and has been removed.", archive.pk, archive.title)
        remove(archive)
    files = list(_folder().iterdir())  # before the rows are read: a row is there before its file
    known = {str(pk) for pk in Archive.objects.values_list("pk", flat=True)}
    for file in files:
        if file.name not in known:
            _unlink(file)


async def pieces(archive: UUID, first: int, last: int) -> AsyncIterator[bytes]:
    """Bytes `first` to `last` of the file, a piece at a time."""
    with await asyncio.to_thread(path_of(archive).open, "rb") as file:
        await asyncio.to_thread(file.seek, first)
        left = last - first + 1
        while left > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE, left))):
            left -= len(piece)
            yield piece
