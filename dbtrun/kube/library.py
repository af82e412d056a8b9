"""What is used of kubernetes_asyncio, without the 800 modules that are generated from the Kubernetes API.

The library imports them with any part of itself, which takes half of the time in which a command or a watcher starts.
Here the packages that import them put that off until somebody asks for one: for others in the same process, as in a
triggerer, `from kubernetes_asyncio.client import CoreV1Api` works as ever.
"""

from __future__ import annotations

import sys
import threading
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PUT_OFF: Final = frozenset({"kubernetes_asyncio", "kubernetes_asyncio.client", "kubernetes_asyncio.client.models"})
_LOCK: Final = threading.RLock()


class _Package(ModuleType):
    """A package whose `__init__` runs when it is asked for a name that it does not have."""

    def __getattr__(self, name: str) -> Any:
        # Another thread waits here until all names are there. This one meets a package that is half imported, as usual.
        with _LOCK:
            loader: Loader | None = self.__dict__.pop("_put_off", None)
            if loader is not None:
                loader.exec_module(self)
        if name not in self.__dict__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return self.__dict__[name]


class _PuttingOff(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        module.__dict__["_put_off"] = self._real
        module.__class__ = _Package


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name in _PUT_OFF else None
        if found is not None and found.loader is not None:
            found.loader = _PuttingOff(found.loader)
        return found


sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder)
try:
    # In this order: each of them imports those above from the package itself, where they are by then.
    import kubernetes_asyncio.client.rest
    from kubernetes_asyncio.client.api_client import ApiClient
    from kubernetes_asyncio.client.configuration import Configuration

    # kopf imports these two models, if it can.
    from kubernetes_asyncio.client.models.v1_object_meta import V1ObjectMeta
    from kubernetes_asyncio.client.models.v1_owner_reference import V1OwnerReference

    for _part in (ApiClient, Configuration, V1ObjectMeta, V1OwnerReference):
        setattr(kubernetes_asyncio.client, _part.__name__, _part)
    import kubernetes_asyncio.config as config
finally:
    sys.meta_path.remove(_Finder)

__all__ = ["ApiClient", "Configuration", "config"]
