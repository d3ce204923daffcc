"""`pip install .` installs the library and the `easi3r` command without ROS; metadata is in pyproject.toml."""

from setuptools import setup

setup()
