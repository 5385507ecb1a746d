"""What two holders of a lock see of one another."""

import threading
from typing import Any

import pytest

from image_similarity.storage import locks


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder gives signs of life every twentieth of a second, and counts as dead after a second without."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 1.0)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)


def order_of_two(files: Any, lock: str) -> list[str]:
    """Who had ``lock`` first, where the one that begins holds it for two seconds."""
    order: list[str] = []

    def other() -> None:
        with files.locked(lock):
            order.append("other")

    with files.locked(lock):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(2.0)
        order.append("first")
    thread.join()
    return order
