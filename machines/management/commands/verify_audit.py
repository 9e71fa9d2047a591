"""`manage.py verify_audit`: whether the history is as it was written. Ends with 1 and names each entry where it is not."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from machines.models import Host
from machines.panel.audit import receipts, verify
from machines.panel.courier.key_ring import earlier, load_key


class Command(BaseCommand):
    help = (
        "Verify the hash chain of the history, its seals where the courier's key can be read, and the hosts' receipts."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        file = Path(settings.SIGNING_KEY_FILE)
        try:
            key = load_key(file).verify_key if file.exists() else None
            mark = verify.read_mark(file.with_name("history"))
        except (OSError, ValueError) as error:
            raise CommandError(f"{error}. Run this as the courier's user.") from error
        verdict = verify.verify(key, (mark,) if mark else (), earlier=earlier(file))
        for fault in verdict.faults:
            self.stdout.write(fault)
        hosts = [(host, receipts.compare(host)) for host in Host.objects.order_by("name")]
        for host, both in hosts:
            for fault in both.faults:
                self.stdout.write(f"{host.name}: {fault}")
        seals = "signatures checked" if verdict.is_signed else f"signatures not checked: {file} is not here"
        summary = f"{verdict.count} entries ({verdict.first} to {verdict.last}), {verdict.seals} seals ({seals})"
        if not verdict.is_whole:
            raise CommandError(f"The history is damaged: {len(verdict.faults)} faults in {summary}.")
        self.stdout.write(f"The history is whole: {summary}.")
        if unlike := [host.name for host, both in hosts if both.faults]:
            raise CommandError(f"The receipts of {', '.join(unlike)} and the panel's jobs do not agree.")
        count = sum(both.compared for _, both in hosts)
        self.stdout.write(f"{count} receipts of {len(hosts)} hosts agree with the panel's jobs.")
