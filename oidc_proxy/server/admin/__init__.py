"""Health, metrics and session administration, on a listener of their own: no probe can shadow a path of the
application, or pass for one.

* ``settings``: where it listens, and who may administer
* ``listener``: which page is asked for
* ``health``: liveness, readiness, metrics
* ``peers``: the other workers, which are asked as well
* ``sessions``: list, show and end sessions

Only the settings are imported with the package: whoever reads a configuration needs no more.
"""

from __future__ import annotations

from .settings import AdminSettings

__all__ = ["AdminSettings"]
