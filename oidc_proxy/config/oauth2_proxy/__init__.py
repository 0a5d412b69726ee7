"""oauth2-proxy's configuration as ours.

* ``options``: the table of its options, and the sentences about them
* ``reading``: from a file, command line or environment to options and their values
* ``convert``: from those to our settings, with ``rules`` for upstreams and routes, and ``paths`` for expressions
* ``draft``: settings under way, notes, and the file that is printed
"""

from __future__ import annotations

from oidc_proxy.config.oauth2_proxy.convert import convert
from oidc_proxy.config.oauth2_proxy.draft import Draft, Note
from oidc_proxy.config.oauth2_proxy.options import OPTIONS, SENTENCES
from oidc_proxy.config.oauth2_proxy.reading import Values, of_environ, of_words, read

__all__ = ["OPTIONS", "SENTENCES", "Draft", "Note", "Values", "convert", "of_environ", "of_words", "read"]
