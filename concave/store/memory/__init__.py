"""The store in this process's memory."""

from concave.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
