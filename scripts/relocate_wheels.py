"""Points the CMake files of the ROS wheels at this environment's Python instead of the one they were built with.

Run it with the environment's own Python. Without it CMake refuses to generate the messages.
"""

import re
import sys
import sysconfig
from pathlib import Path

BUILDER = r"/opt/python/cp\d+-cp\d+"
REPLACEMENTS = (
    (re.compile(BUILDER + r"/include/python3\.\d+"), sysconfig.get_path("include")),
    (re.compile(BUILDER + r"/lib/python3\.\d+/site-packages"), sysconfig.get_path("purelib")),
)


def relocated(text: str) -> str:
    """`text` with the builder's include and site-packages folders replaced by this environment's."""
    for pattern, folder in REPLACEMENTS:
        text = pattern.sub(lambda _, folder=folder: folder, text)
    return text


def main() -> None:
    for path in Path(sys.prefix, "share").glob("*/cmake/*.cmake"):
        text = path.read_text()
        changed = relocated(text)
        if changed != text:
            path.write_text(changed)


if __name__ == "__main__":
    main()
