"""A press of a button that makes a job: its form carries a key, by which a second press finds the job of the first."""

from uuid import UUID

from machines.panel.web.access import PanelRequest


def key(request: PanelRequest) -> UUID | None:
    """The key of the form that was sent; None for a form without one, and for text that is none."""
    try:
        return UUID(request.POST.get("key", ""))
    except ValueError:
        return None
