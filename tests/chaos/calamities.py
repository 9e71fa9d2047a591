"""What dies, freezes, is emptied or comes back from yesterday; afterwards everything runs again."""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from redis.exceptions import RedisError

from nspawnpanel.stack import WORKER
from tests.chaos.house import COURIERS, House

PAUSE = (1.0, 5.0)  # seconds between two
FROZEN = (1.0, 8.0)
AWAY = (0.2, 4.0)

Calamity = Callable[[House, Random], None]


def worker_killed(house: House, dice: Random) -> None:
    host = house.hosts[dice.choice(list(house.hosts))]
    host.run(["systemctl", "kill", "--signal=KILL", WORKER], check=False)


def worker_frozen(house: House, dice: Random) -> None:
    host = house.hosts[dice.choice(list(house.hosts))]
    host.run(["systemctl", "kill", "--signal=STOP", WORKER], check=False)
    time.sleep(dice.uniform(*FROZEN))
    host.run(["systemctl", "kill", "--signal=CONT", WORKER], check=False)


def builder_killed(house: House, dice: Random) -> None:
    """Whatever job has a unit of its own just now."""
    host = house.hosts[dice.choice(list(house.hosts))]
    host.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", "nspawnpanel-job-*"], check=False)


def courier_killed(house: House, dice: Random) -> None:
    _part_killed(house, dice, dice.choice(COURIERS))


def both_couriers_killed(house: House, dice: Random) -> None:
    for name in COURIERS:
        house.panel.stop_part(name, signal.SIGKILL)
    time.sleep(dice.uniform(*AWAY))
    for name in COURIERS:
        house.panel.start_part(name)


def web_killed(house: House, dice: Random) -> None:
    _part_killed(house, dice, "web")


def _part_killed(house: House, dice: Random, name: str) -> None:
    house.panel.stop_part(name, signal.SIGKILL)
    time.sleep(dice.uniform(*AWAY))
    house.panel.start_part(name)


def redis_killed(house: House, dice: Random) -> None:
    """Nothing of it is on disk."""
    house.panel.valkey.kill()
    time.sleep(dice.uniform(*AWAY))
    house.panel.valkey.start()


def redis_frozen(house: House, dice: Random) -> None:
    house.panel.valkey.freeze()
    time.sleep(dice.uniform(*FROZEN))
    house.panel.valkey.thaw()


def redis_emptied(house: House, _: Random) -> None:
    house.panel.valkey.flush()


def redis_put_back(house: House, dice: Random) -> None:
    """To how it was a while ago: orders lie in its queues that were carried out since, reports that were taken."""
    valkey, kept = house.panel.valkey, house.panel.data / "yesterday.rdb"
    dump = valkey.data / "dump.rdb"
    if not kept.exists() or dice.random() < 0.5:
        with valkey.admin() as admin:
            admin.save()
        shutil.move(dump, kept)
        return
    valkey.kill()
    shutil.copyfile(kept, dump)
    valkey.start()
    dump.unlink()


CALAMITIES: dict[str, tuple[int, Calamity]] = {  # how often, compared with the others
    "worker killed": (5, worker_killed),
    "worker frozen": (2, worker_frozen),
    "builder killed": (1, builder_killed),
    "courier killed": (3, courier_killed),
    "both couriers killed": (1, both_couriers_killed),
    "web killed": (2, web_killed),
    "Redis killed": (2, redis_killed),
    "Redis frozen": (2, redis_frozen),
    "Redis emptied": (2, redis_emptied),
    "Redis put back to an older dump": (4, redis_put_back),
}


class Weather(threading.Thread):
    """One calamity after another until calm() is called, which returns when everything runs again."""

    def __init__(self, house: House, dice: Random) -> None:
        super().__init__(name="weather")
        self.happened: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._house, self._dice = house, dice
        self._calm = threading.Event()

    def run(self) -> None:
        names, weights = list(CALAMITIES), [often for often, _ in CALAMITIES.values()]
        while not self._calm.wait(self._dice.uniform(*PAUSE)):
            name = self._dice.choices(names, weights)[0]
            try:
                CALAMITIES[name][1](self._house, self._dice)
            except RedisError:
                continue  # it was not up again yet
            except BaseException as error:  # what we did ourselves went wrong: the run is void
                self.failure = error
                return
            self.happened[name] += 1

    def calm(self) -> None:
        self._calm.set()
        self.join()
        if self.failure:
            raise self.failure
