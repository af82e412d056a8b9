"""A refused token pauses its connection: one request at a time asks again, less and less often."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dbtrun.values import Instant
from watcher.dbtcloud.contact import Contact
from watcher.dbtcloud.errors import Unauthorized

NEXT_LOOK: Final = 1.0
"""Seconds until those come back that meet a request which asks whether the token is still refused."""


class Refusal:
    """Whether dbt Cloud refuses the token, and who may ask again."""

    def __init__(self) -> None:
        self._contact = Contact(random.random)
        self._words = ""
        self._asking = False

    @contextmanager
    def passed(self, mono: float) -> Iterator[None]:
        """Around each request.

        Raises:
            Unauthorized: the token was refused, and it is not the time to ask again. Nothing was sent.
        """
        if not self._contact.troubled:
            yield
            return
        left = self._contact.retry_at - mono
        # With a thousand objects, each pause would otherwise end with a thousand refused requests.
        if left > 0 or self._asking:
            raise Unauthorized(self._words, retry_after=max(left, NEXT_LOOK), not_sent=True)
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def heard(self, refusal: Unauthorized | None, now: Instant) -> None:
        """A reply came: a refusal, or anything else."""
        if refusal is None:
            self._contact.answered()
        else:
            self._words = refusal.message
            self._contact.failed(refusal, now)
