"""Packages whose names are imported from their modules when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, str]) -> None:
    """Make names of a package's modules attributes of the package.

    A module is imported when one of its names is used, so that importing the package stays cheap.

    Args:
        package: The full name of the package, which is being imported.
        exports: {name: module of the package that defines it}.
    """
    namespace = vars(sys.modules[package])

    def get_attribute(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{exports[name]}"), name)

    namespace["__all__"] = [*exports]
    namespace["__getattr__"] = get_attribute
    namespace["__dir__"] = lambda: sorted({*namespace, *exports})
