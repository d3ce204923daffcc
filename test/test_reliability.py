"""docs/reliability.md: each fault in its table names a test that there is."""

import re
from pathlib import Path

TEST = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| .* \| (test_\w+\.py)::(test_\w+) \|$", re.MULTILINE)


def test_every_fault_has_a_test():
    text = (TEST.parent / "docs" / "reliability.md").read_text()
    rows = ROW.findall(text)
    assert len(rows) >= 50 and len(re.findall(r"^\| \d+ \|", text, re.MULTILINE)) == len(rows)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    missing = [f"{file}::{name}" for _, file, name in rows if f"def {name}(" not in (TEST / file).read_text()]
    assert not missing
