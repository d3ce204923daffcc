"""`pip install .` installs the library and the `easi3r` command without ROS; metadata is in pyproject.toml."""

from setuptools import setup

# In pyproject.toml releases of setuptools disagree on how to write it: {text = ...} until 76, a plain string since 77.
setup(license="Apache-2.0")
