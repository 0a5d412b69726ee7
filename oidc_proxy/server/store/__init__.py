"""Where sessions are kept: one port, two stores. Bytes go in and come out; nothing here can read them.

* ``port``: what sessions need of a store
* ``settings`` choose one, ``open`` makes it
* ``measured``: any of them, and how it does
* ``memory``: a dict with an expiry queue
* ``redis``: Redis or Valkey as commands; ``server`` keeps a ``link`` to one server up, ``sentinel`` says where it is,
  ``cluster`` which of several has a key (these alone know redis)
"""

from __future__ import annotations

from .measured import MeasuredStore
from .memory import MemoryStore
from .open import open_store
from .port import Store, Watcher
from .settings import MemoryStoreSettings, RedisStoreSettings, StoreSettings

__all__ = [
    "MeasuredStore",
    "MemoryStore",
    "MemoryStoreSettings",
    "RedisStoreSettings",
    "Store",
    "StoreSettings",
    "Watcher",
    "open_store",
]
