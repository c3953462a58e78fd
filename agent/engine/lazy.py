"""Import modules that a library never uses here lazily.

A module named here is loaded when something in it is used, not when it is imported: structlog
imports asyncio (and that ssl) for methods of asynchronous programs and uuid for a deprecated
feature, dataclasses imports inspect for classes without a docstring, shutil the two compressions
for archives that it makes, psutil subprocess for a class of its own, ctypes.util tempfile for
systems with gcc.
(importlib's LazyLoader loads at once here: `import` itself asks for an attribute.)
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Module = type(sys)


class _Lazy(_Module):  # type: ignore[misc, valid-type]
    """Stand in for a module until something in it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        import importlib

        return getattr(importlib.import_module(self.__name__), name)


def import_lazily(*names: str) -> None:
    """Let `import name` succeed, and load the module only when something in it is used."""
    for name in names:
        sys.modules.setdefault(name, _Lazy(name))


def import_without(name: str, absent: str) -> Any:
    """Import a module as if another were not installed, which it would import where it is."""
    if absent in sys.modules:
        return __import__(name)
    sys.modules[absent] = None  # type: ignore[assignment]
    try:
        return __import__(name)
    finally:
        del sys.modules[absent]
