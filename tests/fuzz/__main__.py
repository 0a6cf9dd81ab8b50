"""`make fuzz`: many cases per reader in processes of their own, so that a crash or an endless loop is one more result.

    PYTHONPATH=tests python -m fuzz --count 100000 --workers 2 [--only lora] [--case 1234] [--save build/fuzz]

A case is told by its reader, seed and number: `--only lora --case 1234` runs it again, alone and with its traceback.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import TARGETS
from .pool import Report, run_all
from .target import SEED, Target, digest, run
from .watch import fast_folder


def main() -> int:
    """Exit status 1 when a rule was broken."""
    options = _options()
    chosen = [target for target in TARGETS if options.only in ("", target.name)]
    if not chosen:
        names = ", ".join(target.name for target in TARGETS)
        sys.exit(f'received --only "{options.only}"; allowed: {names}')
    if options.case is not None:
        return _again(chosen[0], options.case, options.seed, options.save)
    print(
        f"{'reader':<22}{'cases':>9}{'read':>9}{'refused':>9}{'failures':>10}{'seconds':>9}{'cases/s':>9}  refusals",
        flush=True,
    )
    reports = []
    start = time.monotonic()
    for report in run_all(chosen, options.count, options.workers, options.seed, options.save):
        reports.append(report)
        print(_line(report), flush=True)
    failures = sum(report.failures.total() for report in reports)
    cases = sum(report.cases for report in reports)
    print(
        f"{cases:,} cases of {len(reports)} readers in {time.monotonic() - start:.0f} s, {failures:,} failures"
    )
    for report in reports:
        for what, saved in report.saved.items():
            print(f"{report.name}: {what} ({report.failures[what]}x): {saved}")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Feed readers with files that lie.")
    parser.add_argument("--count", type=int, default=100_000, help="cases per reader")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=SEED, help="of all cases")
    parser.add_argument("--only", default="", help="a reader's name")
    parser.add_argument("--case", type=int, help="run this case of --only alone, with its traceback")
    parser.add_argument("--save", type=Path, default=Path("build/fuzz"), help="where failing inputs are kept")
    return parser.parse_args()


def _line(report: Report) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in report.refusals.most_common())
    numbers = (
        report.cases,
        report.cases - report.refusals.total() - report.failures.total(),
        report.refusals.total(),
    )
    shown = "".join(f"{number:>9,}" for number in numbers)
    rate = report.cases / max(report.seconds, 1e-9)
    return (
        f"{report.name:<22}{shown}{report.failures.total():>10,}{report.seconds:>9.0f}{rate:>9.0f}  {kinds}"
    )


def _again(target: Target, number: int, seed: int, save: Path) -> int:
    data = target.case(number, seed)
    save.mkdir(parents=True, exist_ok=True)
    path = save / f"{target.name.replace(' ', '-')}-{digest(data)}"
    path.write_bytes(data)
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        outcome = run(target, data, Path(folder))
    print(f"{path}: {outcome.failure or outcome.refusal or 'read'}\n{outcome.trace}")
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    sys.exit(main())
