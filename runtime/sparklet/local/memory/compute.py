"""Functions in this process, called as Lambda calls them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sparklet.errors import RemoteFailureError, RemoteTaskError


class MemoryCompute:
    """A ``Compute`` over Python callables; event and answer pass through JSON, as they do in Lambda.

    Parameters
    ----------
    functions
        The handlers, by function name; each takes the event.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]) -> None:
        self._functions = functions

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Call a handler; what it raises becomes a RemoteFailureError, as it does behind Lambda."""
        if function not in self._functions:
            raise RemoteTaskError(f"there is no function {function}; deployed: {', '.join(self._functions) or 'none'}")
        received = json.loads(json.dumps(event))
        try:
            answer = self._functions[function](received)
        except Exception as error:  # the boundary between caller and function: Lambda answers with any error there is
            raise RemoteFailureError(f"{function} failed: {type(error).__name__}: {error}") from error
        return json.loads(json.dumps(answer))
