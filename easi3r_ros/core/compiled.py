"""Parts of the network by torch.compile where the user asks for it; one that fails runs as it is from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from easi3r_ros.core.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)


class CompiledCalls:
    """Functions by name, each compiled when it is called first."""

    def __init__(self, wanted: bool, compiler: Callable[[Callable], Callable] = torch.compile):
        self._wanted, self._compiler = wanted, compiler
        self._compiled: dict[str, Callable] = {}

    def call(self, name: str, function: Callable, *args: Any) -> Any:
        """What `function` answers; name: the same for the same function."""
        if not self._wanted:
            return function(*args)
        try:
            if name not in self._compiled:
                self._compiled[name] = self._compiler(function)
            return self._compiled[name](*args)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            answer = function(*args)  # raises what is wrong with the arguments, and not with the compiler
            self._wanted = False
            self._compiled.clear()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("the network is not compiled, which costs time alone (%s)", reason)
            return answer
