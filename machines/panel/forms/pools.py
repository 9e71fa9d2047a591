"""How large a host's btrfs pool shall be."""

from django import forms
from django.http import QueryDict

from machines.contract import orders
from machines.panel.hosts.pools import GIB, Room


class PoolForm(forms.Form):
    size = forms.IntegerField(label="Pool size", help_text="Allocated on the host’s disk at once.")

    def __init__(self, data: QueryDict | None = None, *, room: Room) -> None:
        super().__init__(data, initial={"size": room.usual})
        self.fields["size"].widget.attrs |= {"min": room.least, "max": room.most, "inputmode": "numeric"}
        self._room = room

    def clean_size(self) -> int:
        size = int(self.cleaned_data["size"])
        if not self._room.least <= size <= self._room.most:
            raise forms.ValidationError(f"Choose between {self._room.least} and {self._room.most} GiB.")
        return size

    def to_order(self) -> orders.Pool:
        return orders.Pool(size=self.cleaned_data["size"] * GIB)
