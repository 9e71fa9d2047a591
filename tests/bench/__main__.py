"""Run all figures or those named, print them as a table, and write them to bench.json."""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench import builds, hosts, pages

FIGURES: dict[str, Callable[[], "tuple[str, Sequence[float], Sequence[float], str]"]] = {
    "list_page": pages.list_page,
    "click_to_running": hosts.click_to_running,
    "apply": hosts.apply,
    "build_cold": builds.build_cold,
    "build_cold_debootstrap": builds.build_cold_debootstrap,
    "build_second": builds.build_second,
    "build_second_step": builds.build_second_step,
    "build_again": builds.build_again,
    "create_and_boot": builds.create_and_boot,
    "create_and_boot_lxc": builds.create_and_boot_lxc,
    "ten_at_once": builds.ten_at_once,
}


@dataclass(frozen=True)
class Figure:
    name: str
    what: str
    unit: str
    panel: float
    plain: float
    ratio: float
    runs: int


def measure(name: str) -> Figure:
    what, ours, plain, unit = FIGURES[name]()
    top, bottom = median(ours), median(plain)
    return Figure(name, what, unit, round(top, 2), round(bottom, 2), round(top / bottom, 3), len(ours))


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        sys.stderr.write(f"No figure named {', '.join(unknown)}; there are {', '.join(FIGURES)}.\n")
        return 2
    figures = []
    for name in names or list(FIGURES):
        sys.stdout.write(f"measuring {name} …\n")
        sys.stdout.flush()
        figures.append(measure(name))
    sys.stdout.write(f"\n{'figure':<22} {'panel':>10} {'plain':>10}  unit {'ratio':>7} {'runs':>5}  what\n")
    for f in figures:
        sys.stdout.write(f"{f.name:<22} {f.panel:>10} {f.plain:>10}  {f.unit:<4} {f.ratio:>7} {f.runs:>5}  {f.what}\n")
    record = {"machine": platform.platform(), "figures": [asdict(f) for f in figures]}
    Path("bench.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
