"""The worker's whole way from its queue to a handler and back to its stream, in a process of its own and without a
machine: `python -m tests.host.queue_worker`, with the worker's environment. Orders to start have no other effect."""

import sys
from collections.abc import Callable

from machines.contract import routes
from machines.contract.orders import Start
from machines.host.agent import worker
from machines.host.agent.executor import Executor
from machines.host.agent.tasks import doorway
from machines.host.agent.transport import guarded
from machines.host.context import keys, settings
from machines.host.context.host_context import HostContext
from machines.host.context.panel_keys import PanelKeys
from machines.host.policy.policy import Policy
from machines.host.reports import reporting
from machines.host.reports.ledger import Ledger
from machines.host.reports.publisher import Publisher
from machines.host.reports.reporting import Reporter
from machines.host.system import threads
from machines.host.system.bus import Bus


class Nothing:
    """Stands where the watcher and the units are."""

    def report_final(self, _: str, report: Callable[[None], None]) -> None:
        report(None)

    def suppress(self, _: str) -> None:
        return

    def adopt(self, _row) -> None:
        return

    sweep = resend_all = lambda _self: None


def main() -> None:
    worker._log_to_journal()
    own = settings.read()
    ledger = Ledger(own.paths.ledger, host=own.host, generation=own.generation)
    publisher = Publisher(ledger, own.redis_url, routes.stream(str(own.host)))
    secret = keys.make(own.paths.keys)
    reporter = Reporter(ledger, reporting.Signer(own.host, own.generation, secret.sign), publisher)
    Bus._stay_connected = _never  # type: ignore[method-assign]
    host = HostContext(own.paths, Bus(), Policy())
    executor = Executor(
        host, identity=(own.host, own.generation), panel_keys=PanelKeys(own.panel_keys, settings.FILE), ledger=ledger, reporter=reporter,
        publisher=publisher, watch=Nothing(), units=Nothing(), table={Start: lambda _host, _task: {}},
    )  # fmt: skip
    pulse = worker.Pulse()
    app = worker.make_app(own, pulse, guarded(executor.admit, host.trouble.queue))
    doorway(app, executor.receive, executor.refuse)
    worker.only_our_task(app)
    publisher.start()
    threads.every(1, lambda: worker.beat(host, reporter, ledger), "heartbeat")
    worker.consumer(app, pulse).start()


async def _never(_self) -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
