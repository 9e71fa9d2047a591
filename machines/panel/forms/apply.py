"""How a draft is to be applied: at the next start or with a restart, and what has to hold for it to stay."""

from typing import Any

from django import forms

from machines.contract.configuration import nspawn
from machines.contract.orders import MOST_ROLLBACK_SECONDS
from machines.models import Machine
from machines.panel.configs.diffs import Change, Files
from machines.panel.configs.drafts import Manner

LEAST, USUAL = 10, 60  # seconds


class ApplyForm(forms.Form):
    """The buttons say whether to restart (`then`); the way back is only for that."""

    reason = forms.CharField(required=False, max_length=300)
    rollback = forms.BooleanField(label="Roll back automatically", required=False)
    rollback_after = forms.IntegerField(
        label="Within", required=False, min_value=LEAST, max_value=MOST_ROLLBACK_SECONDS, initial=USUAL,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value"), f"Give {LEAST} to {MOST_ROLLBACK_SECONDS} seconds."
        ),
    )  # fmt: skip
    expects = forms.ChoiceField(
        label="if the machine",
        required=False,
        choices=[("address", "has no address"), ("running", "is not running")],
    )

    def manner(self, *, restart: bool) -> Manner:
        """A form sent without any of it restarts nothing."""
        given = self.cleaned_data
        if not restart:
            return Manner()
        seconds = (given.get("rollback_after") or USUAL) if given.get("rollback") else 0
        return Manner(
            restart=True, rollback_after=seconds, expects="address" if given.get("expects") == "address" else "running"
        )


def offered(machine: Machine, changes: list[Change], wanted: Files, data: Any = None) -> ApplyForm:
    """The form as it is first shown: the way back is ticked when the network changes, and looks for an address where the
    machine has one now and is to have one."""
    mode = nspawn.network_mode(nspawn.parse(wanted.nspawn))[0]
    addressed = bool(machine.addresses) and mode not in {"none", "host"}
    first = {
        "rollback": any(change.section == nspawn.NETWORK for change in changes),
        "expects": "address" if addressed else "running",
    }
    return ApplyForm(data, initial=first)
