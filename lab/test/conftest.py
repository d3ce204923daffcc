"""For all tests."""

import os

# Before PyTorch is imported. Threads that wait for the next small operation must not spin: beside other processes on
# two cores that costs ten times the time of the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
