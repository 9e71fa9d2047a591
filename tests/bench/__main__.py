"""Run all figures or those named, print them as a table, and write them to bench.json."""

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench import builds, greedy, hosts, pages
from tests.bench.measured import Measured, Measuring, NotMeasured

FIGURES: dict[str, Measuring] = {
    "list_page": pages.list_page,
    "greedy_host": greedy.greedy_host,
    "click_to_running": hosts.click_to_running,
    "apply": hosts.apply,
    "build_cold": builds.build_cold,
    "build_cold_debootstrap": builds.build_cold_debootstrap,
    "build_second": builds.build_second,
    "build_second_step": builds.build_second_step,
    "build_again": builds.build_again,
    "create_and_boot": builds.create_and_boot,
    "create_and_boot_lxc": builds.create_and_boot_lxc,
    "create_and_boot_lxd": builds.create_and_boot_lxd,
    "ten_at_once": builds.ten_at_once,
}


@dataclass(frozen=True)
class Figure:
    """One line of the table; without numbers where it could not be measured."""

    name: str
    what: str
    unit: str = ""
    panel: float | None = None
    plain: float | None = None
    ratio: float | None = None
    runs: int = 0

    @property
    def line(self) -> str:
        panel, plain, ratio = ("–" if number is None else number for number in (self.panel, self.plain, self.ratio))
        return f"{self.name:<26} {panel:>10} {plain:>10}  {self.unit:<4} {ratio:>7} {self.runs:>5}  {self.what}"


def measure(name: str) -> list[Figure]:
    """The figures of one run; one without numbers that says why, where there are none."""
    try:
        found = FIGURES[name]()
    except NotMeasured as reason:
        return [Figure(name, f"not measured: {reason}")]
    named = found if isinstance(found, dict) else {name: found}
    return [figure(each, measured) for each, measured in named.items()]


def figure(name: str, measured: Measured) -> Figure:
    what, ours, plain, unit = measured
    top, bottom = median(ours), median(plain)
    return Figure(name, what, unit, round(top, 2), round(bottom, 2), round(top / bottom, 3), len(ours))


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        sys.stderr.write(f"No figure named {', '.join(unknown)}; there are {', '.join(FIGURES)}.\n")
        return 2
    figures: list[Figure] = []
    for name in names or list(FIGURES):
        sys.stdout.write(f"measuring {name} …\n")
        sys.stdout.flush()
        figures += measure(name)
    sys.stdout.write(f"\n{'figure':<26} {'panel':>10} {'plain':>10}  unit {'ratio':>7} {'runs':>5}  what\n")
    for each in figures:
        sys.stdout.write(f"{each.line}\n")
    record = {"machine": platform.platform(), "figures": [asdict(f) for f in figures]}
    Path("bench.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
