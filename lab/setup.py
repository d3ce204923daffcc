"""`pip install -e lab` installs the laboratory and the `easi3r-lab` command; metadata is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

ADDED = (Path(__file__).parent / "requirements.txt").read_text().splitlines()

setup(
    license="Apache-2.0",
    install_requires=["easi3r_ros[all]", *(line for line in ADDED if line and not line.startswith("#"))],
)
