"""`python -m machines.host.agent.worker`: everything that runs on a host, in one process.

The Celery consumer takes orders; beside it live the publisher, the heartbeat, the watcher on the bus and the followers
of jobs in units. Redis may be down, frozen or emptied at any time: nothing here ends because of it.

Why these Celery settings: remote control, gossip and mingle let whoever holds Redis steer the worker; acknowledgement
emulation loses and repeats messages and needs Lua; the ledger and the panel's re-sending do that job.
"""

import contextlib
import logging
import os
import socket
import sqlite3
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import setup_logging
from kombu import compression
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport.redis import Transport

from machines.contract import routes
from machines.contract.problems import Problem
from machines.contract.states import HEARTBEAT_SECONDS
from machines.host.agent.executor import Executor
from machines.host.agent.tasks import doorway
from machines.host.agent.transport import guarded
from machines.host.agent.unit_jobs import Units, set_slice_weight
from machines.host.context import keys, settings, trouble
from machines.host.context.host_context import HostContext
from machines.host.context.panel_keys import PanelKeys
from machines.host.context.settings import Settings
from machines.host.files import nspawn_file
from machines.host.observe import disk_use, host_facts
from machines.host.observe.watch import Watch
from machines.host.policy import bind_dropin, policy
from machines.host.reports import reporting
from machines.host.reports.ledger import Ledger
from machines.host.reports.publisher import Publisher
from machines.host.reports.reporting import Reporter
from machines.host.system import systemctl, threads
from machines.host.system.bus import Bus
from machines.host.system.paths import Paths
from machines.host.system.run import run

LOG = logging.getLogger(__name__)

THREADS = 1  # orders are only taken in here, in the order they were sent; the work is done in queues and units
STUCK_SECONDS = 30.0  # after which the loop of the bus hangs
RECONNECT = {"interval_start": 0.2, "interval_step": 0.4, "interval_max": 2.0}  # seconds


class Pulse:
    """When the broker loop last turned, so that a stuck one is noticed by systemd's watchdog."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def beat(self) -> None:
        self.at = time.monotonic()


def connection_class(pulse: Pulse, transport: type[Transport]) -> type[Connection]:
    """kombu's connection, but it tries again every two seconds at most, and trying counts as being alive."""

    class Patient(Connection):
        def _ensure_connection(  # type: ignore[override, unused-ignore]
            self, errback: Any = None, max_retries: Any = None, **given: Any
        ) -> Any:
            def noted(error: Exception, interval: float) -> Any:
                pulse.beat()
                return errback(error, interval) if errback else None

            return super()._ensure_connection(noted, max_retries, **{**given, **RECONNECT})  # type: ignore[no-untyped-call]

        def get_transport_cls(self) -> type[Transport]:
            return transport

    return Patient


def make_app(own: Settings, pulse: Pulse, transport: type[Transport]) -> Celery:
    """The Celery app of this host: its own queue, its own key prefix, JSON, one task, no Django."""
    host = str(own.host)
    # A property of the same name is in the way of subclass arguments, hence type(). Without an exchange there are no
    # bindings to keep in Redis, which this host's user may not write.
    amqp = type("HostAMQP", (AMQP,), {"Connection": connection_class(pulse, transport), "default_exchange": None})
    app = Celery("nspawnpanel-host", broker=own.redis_url, fixups=[], set_as_current=True, amqp=amqp)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_create_missing_queues=False,
        task_queues=[Queue(routes.queue(host), routing_key=routes.queue(host))],  # type: ignore[no-untyped-call]
        task_default_queue=routes.queue(host),
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            "global_keyprefix": routes.prefix(host),
            "ack_emulation": False,
            "health_check_interval": 10,
            "socket_timeout": 20,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
    )
    return app


def only_our_task(app: Celery) -> None:
    """Celery's own tasks run chains and chords of whoever can write to the queue; none of them is ours."""
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.unregister(name)
    compression._decoders.clear()  # an envelope is never compressed; a bomb would be


def consumer(app: Celery, pulse: Pulse) -> Any:
    """Celery's worker of this app, to be started."""
    worker = app.Worker(
        hostname=f"host@{app.conf.task_default_queue}", pool="threads", concurrency=THREADS, loglevel=None, quiet=True,
        without_gossip=True, without_mingle=True, without_heartbeat=True,
    )  # fmt: skip
    worker.start_time = time.time()
    _beat_with(worker, pulse)
    return worker


def assemble(own: Settings) -> tuple[HostContext, Executor, Reporter, Publisher, Watch, Ledger]:
    """Everything but Celery, wired together. Raises Misconfigured."""
    secret = keys.load(own.paths.keys)
    rules = policy.read(own.paths.policy)
    host = HostContext(own.paths, Bus(), replace(rules, panel_urls=rules.panel_urls or own.panels))
    ledger = Ledger(own.paths.ledger, host=own.host, generation=own.generation)
    publisher = Publisher(ledger, own.redis_url, routes.stream(str(own.host)), own.redis_pins)
    reporter = Reporter(ledger, reporting.Signer(own.host, own.generation, secret.sign), publisher)
    watch = Watch(host, ledger, reporter)
    units = Units(host, ledger, reporter, watch)
    obeyed = PanelKeys(own.panel_keys, settings.FILE)
    executor = Executor(
        host, identity=(own.host, own.generation), panel_keys=obeyed, ledger=ledger, reporter=reporter,
        publisher=publisher, watch=watch, units=units,
    )  # fmt: skip
    disk_use.start(host.slow)
    return host, executor, reporter, publisher, watch, ledger


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens when it did not start us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def watchdog(pulse: Pulse, bus: Bus) -> None:
    """Keep systemd content while the broker loop turns or tries to connect, and the loop of the bus turns."""
    limit = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    if limit:

        def ping() -> None:
            if time.monotonic() - pulse.at < limit and bus.stuck_for() < limit:
                notify("WATCHDOG=1")

        threads.every(limit / 4, ping, "watchdog")


def beat(host: HostContext, reporter: Reporter, ledger: Ledger, obeyed: Sequence[str] = ()) -> None:
    """Say that the worker lives; where nothing can be written any more, that too."""
    try:
        reporter.send_passing(host_facts.heartbeat(host.paths, host.trouble.told(), ledger.heard(), obeyed))
        if ledger.is_short():
            host.trouble.note(trouble.SPOOL, f"There is almost no space left in {host.paths.state}.")
        else:
            host.trouble.over(trouble.SPOOL)
    except (sqlite3.Error, OSError) as error:
        why = f"The worker cannot write to {host.paths.state}: {error}. It accepts no requests until it can."
        host.trouble.note(trouble.SPOOL, why)
        reporter.send_unspooled(host_facts.heartbeat(host.paths, host.trouble.told(), ledger.heard(), obeyed))


def look_at_loop(host: HostContext) -> None:
    """A loop of the bus that hangs is told of, and where it hangs is logged; systemd's watchdog ends it at last."""
    if host.bus.stuck_for() < STUCK_SECONDS:
        host.trouble.over(trouble.LOOP)
    elif host.trouble.note(trouble.LOOP, "The worker hangs while it talks to systemd; it will be restarted."):
        frame = sys._current_frames().get(host.bus.thread.ident or 0)
        LOG.error("The loop of the bus hangs here:\n%s", "".join(traceback.format_stack(frame)))


def guard_binds(paths: Paths) -> None:
    """Drop-ins that judge binds at each start, for machines that an earlier worker gave theirs. Nothing is raised."""
    try:
        missing = bind_dropin.missing(paths)
        for file, text in missing:
            LOG.info("Writing %s", file)
            nspawn_file.write_one(file, text)
        if missing:
            run(systemctl.daemon_reload(), timeout=60)
    except (Problem, OSError) as error:
        LOG.warning("Binds are not judged at each start of every machine yet: %s", error)


def serve(own: Settings) -> NoReturn:
    """Run until stopped, then end the process."""
    pulse = Pulse()
    host, executor, reporter, publisher, watch, ledger = assemble(own)
    app = make_app(own, pulse, guarded(executor.admit, host.trouble.queue, own.redis_pins))
    doorway(app, executor.receive, executor.refuse)
    only_our_task(app)
    publisher.start()
    set_slice_weight()
    guard_binds(host.paths)
    executor.adopt()
    watch.start()
    threads.every(HEARTBEAT_SECONDS, lambda: beat(host, reporter, ledger, executor.obeyed()), "heartbeat")
    threads.every(5, lambda: look_at_loop(host), "bus-watch")
    threads.every(600, ledger.trim, "trim")
    threads.every(86400, ledger.forget_jobs, "forget")
    watchdog(pulse, host.bus)
    notify("READY=1")
    worker = consumer(app, pulse)
    worker.start()
    reporter.flush()
    os._exit(int(worker.exitcode or 0))  # work under way is taken up again; waiting for it could take minutes


def _beat_with(worker: Any, pulse: Pulse) -> None:
    """The event loop's own timer beats, so a loop that hangs does not. Reconnecting clears timers, hence the check."""

    def again() -> None:
        pulse.beat()

    def arm() -> None:
        hub = getattr(worker, "hub", None)
        if hub is not None and not getattr(hub, "nspawnpanel_beats", None):
            hub.on_tick.add(again)
            hub.nspawnpanel_beats = True

    threads.every(5, arm, "pulse")


def _log_to_journal() -> None:
    """One line per event on standard error, and nothing of Celery's own arranging."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    setup_logging.connect(lambda **_: None, weak=False)
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")


def main() -> int:
    """Run until stopped; 78 (EX_CONFIG) when this host is misconfigured, so that its unit does not restart for it."""
    _log_to_journal()
    try:
        serve(settings.read())
    except Problem as problem:
        LOG.critical("%s %s", problem.message, problem.hint)
        return 78  # EX_CONFIG: the unit does not restart for it


if __name__ == "__main__":
    sys.exit(main())
