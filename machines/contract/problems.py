"""What can go wrong, as one tree. A problem may cross the wire; everything else is `internal-error`.

Problem
├── BadValue            a value that a person typed cannot be used; knows its field
├── NotAllowed          the role or the host's policy says no
└── EnvelopeRefused     a message that is not ours, not for us, too old, too early or too large
(the host adds its own below these in machines/host/system/faults.py)
"""

import re
from typing import Any
from uuid import UUID

_NO_TEXT = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """The same with � for bytes that are no UTF-8, which os.fsdecode() leaves in names of files and no JSON takes."""
    return _NO_TEXT.sub("�", text)


class Problem(Exception):
    """A trouble with a code, a sentence for a tired administrator, and perhaps a hint what to do.

    `retryable` marks troubles that may be gone at the next try (mirror down, host busy).
    `details` are the last lines of the tool that failed, if one did.
    """

    code = "internal-error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        retryable: bool = False,
        details: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).code
        self.retryable = retryable
        self.details = details

    def to_wire(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": printable(self.message),
            "hint": printable(self.hint),
            "retryable": self.retryable,
            "details": printable(self.details),
        }


class BadValue(Problem):
    """A value that cannot be used; `field` is the name of the form field or setting it was given for ("" if unknown)."""

    code = "bad-value"

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class NotAllowed(Problem):
    code = "not-allowed"


class EnvelopeRefused(Problem):
    """`job` is known only when the signature held and the envelope could be read."""

    code = "envelope-refused"

    def __init__(self, message: str, *, code: str = "", hint: str = "", job: UUID | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.job = job


class ReportUnreadable(EnvelopeRefused):
    """A signed report of which only its place can be told, and when it was signed (0.0 where not even that)."""

    code = "envelope-unreadable"

    def __init__(self, number: int, at: float = 0.0, epoch: int = 0) -> None:
        super().__init__("A signed report that cannot be read.")
        self.number, self.at, self.epoch = number, at, epoch
