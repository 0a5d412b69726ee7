"""The processes: one that serves, or several with a supervisor.

* ``process``: a process that serves: the event loop, signals, and the way out
* ``supervisor``: starts processes, starts them again, and sees to it that all of them end
"""

from __future__ import annotations

import sys

from ...config import Config
from .process import one


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    if config.listen.workers == 1:
        return one(config)
    from .supervisor import several  # whoever runs one process needs no more

    if sys.platform != "linux":
        print("oidc-proxy: listen.workers: more than one needs Linux; write 1", file=sys.stderr)  # noqa: T201
        return 1
    return several(config)
