"""The one Celery doorway: carry_out(envelope). Everything worth testing lies behind it, without Celery."""

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore

from machines.contract import routes
from machines.contract.problems import EnvelopeRefused, Problem


def doorway(app: Celery, receive: Callable[[str], None], refuse: Callable[[Problem], None]) -> None:
    """Register the task. Callbacks, chains and chords ride outside the signature, so a message with any is refused."""

    @app.task(name=routes.TASK, bind=True, shared=False)  # type: ignore[untyped-decorator, unused-ignore]
    def carry_out(self: Task, envelope: Any) -> None:
        request = self.request
        if request.callbacks or request.errbacks or request.chain or request.chord or not isinstance(envelope, str):
            refuse(EnvelopeRefused("A message with more than an envelope in it.", code="envelope-unreadable"))
            raise Ignore
        receive(envelope)
