"""What `easi3r doctor` says about one subject."""

from __future__ import annotations

import sys
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"
COLOURS = {OK: 32, WARN: 33, FAIL: 31}  # of terminals: green, yellow, red


@dataclass(frozen=True)
class Finding:
    subject: str
    status: str  # OK, WARN: something is missing that not everybody needs, FAIL: nothing works until it is repaired
    detail: str
    advice: str = ""  # what to do

    def show(self) -> None:
        status = f"{self.status:<4}"
        if sys.stdout.isatty():
            status = f"\033[{COLOURS[self.status]}m{status}\033[0m"
        print(f"{status}  {self.subject:<24}{self.detail}")
        if self.advice:
            print(f"{'':30}{self.advice}")
