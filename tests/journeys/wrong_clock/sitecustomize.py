"""A process whose clock is wrong by WRONG_BY seconds: what the panel asks of time.time() and Django's timezone.now()."""

import os
import time
from datetime import timedelta

from django.utils import timezone

_by = float(os.environ["WRONG_BY"])
_time, _now = time.time, timezone.now
time.time = lambda: _time() + _by
timezone.now = lambda: _now() + timedelta(seconds=_by)
