"""Entries that are older than they are to be kept go. The oldest that stays is a sealed one, so the chain still begins with
something that the courier's key vouches for."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from machines.models import Event, EventHead, EventSeal, Receipt

AT_ONCE = 5000  # entries


def forget_old(now: datetime) -> int:
    """How many went; the rest goes the next time."""
    until = now - timedelta(days=settings.AUDIT_DAYS)
    oldest = EventSeal.objects.filter(at__lt=until).order_by("-number").first()
    with transaction.atomic():
        head = EventHead.objects.select_for_update().filter(pk=EventHead.ONLY).first()
        if head is None:
            return 0
        if oldest and oldest.number > head.first:
            head.first = oldest.number
            head.save(update_fields=["first"])
            EventSeal.objects.filter(number__lt=head.first).delete()
        Receipt.objects.filter(received_at__lt=until).delete()
        some = Event.objects.filter(pk__lt=head.first).order_by("pk").values_list("pk", flat=True)[:AT_ONCE]
        return Event.objects.filter(pk__in=list(some)).delete()[0] if some else 0
