"""matplotlib, whatever MPLBACKEND says: pictures go to files, for which it needs no backend.

Notebooks set that to a module which other environments have not got, and matplotlib refuses to be
imported then. To be called before anything of it is.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

_NAME = "MPLBACKEND"


def see_to_matplotlib() -> None:
    """Imports it without that variable, and then tells it what that says, as far as it takes it."""
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop(_NAME, None)
    try:
        matplotlib = import_module("matplotlib")
    finally:
        if named is not None:
            os.environ[_NAME] = named
    if named:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named
