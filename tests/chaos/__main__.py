"""Run it, print what happened and what is wrong; 0 when every promise held."""

import argparse
import sys
import time
from random import Random

from tests.chaos import house, verdict
from tests.chaos.calamities import Weather
from tests.chaos.work import People


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    options = _options()
    say(f"{options.jobs} jobs, {options.database}, --seed {options.seed}")
    with house.built(options.database) as built:
        began = time.monotonic()
        people, weather = People(built, Random(options.seed)), Weather(built, Random(options.seed + 1))
        weather.start()
        try:
            people.work(options.jobs)
        finally:
            weather.calm()
        quiet = time.monotonic()
        took = verdict.settle(built, people)
        built.hear_all()
        found = verdict.judge(built, people)
        say(f"placed: {_counted(people.placed)}; cancelled by people {people.cancels}; refused {people.refused};"
            f" without an answer at first {people.unanswered}; in {quiet - began:.0f} s")  # fmt: skip
        say(f"happened: {_counted(weather.happened)}; {weather.happened.total()} in all")
        say(f"ended: {_counted(found.ends)}; all decided {took:.1f} s after the last calamity")
        say(f"lost {len(found.lost)}, doubled {len(found.doubled)}, undecided after {verdict.DECIDED:.0f} s"
            f" {len(found.undecided)}, untrue {len(found.untrue)}")  # fmt: skip
        for fault in found.faults:
            say(f"  {fault}")
        if not found.holds and options.keep:
            input("Everything still runs; Enter ends it. ")
        return 0 if found.holds else 1


def _counted(some: dict[str, int]) -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(some.items(), key=lambda pair: -pair[1]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7, help="which jobs and which calamities; not how they meet")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--keep", action="store_true", help="wait before the end when something did not hold")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
