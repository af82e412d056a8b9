"""What is opened and closed, as a context manager; a failed opening is closed too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Opened(ABC):
    @abstractmethod
    def open(self) -> None:
        """Start everything and wait until it works."""

    @abstractmethod
    def close(self) -> None:
        """End everything and remove what it left, however far it came. May be called twice."""

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
