"""``python -m oidc_proxy`` and the ``oidc-proxy`` command."""

from __future__ import annotations

import sys

from oidc_proxy.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
