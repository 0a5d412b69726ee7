"""The configuration: every module's settings composed; read, checked, explained and documented.

* ``compose``: ``Config``, and ``load(files, environ)``
* ``checks``: whether the settings go together
* ``reading``: from files, environment and options to settings of any class, or every problem at once
* ``document``: YAML as trees in which everything knows its place
* ``fields``: what the classes say about a place
* ``explain``: pydantic's complaints in our words
* ``problems``: what is wrong, where, and what to write instead
* ``show``: the values in force and where they come from
* ``oauth2_proxy``: the configuration of oauth2-proxy as ours
* ``generate``: the commented example, the JSON Schema and the settings page
"""

from __future__ import annotations

from oidc_proxy.config.compose import Config, load, read_config
from oidc_proxy.config.problems import Problem
from oidc_proxy.config.reading import Loaded

__all__ = ["Config", "Loaded", "Problem", "load", "read_config"]
