"""Import a UNet of diffusers without the libraries that it imports and never uses.

`from diffusers import UNet2DConditionModel` loads some 2,800 modules after torch: all transformers
and UNets of diffusers, LoRA with transformers' models, torch._dynamo, sympy and parts of scipy. That
takes twice as long as torch itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

# Their __init__ imports every network of diffusers; each network is a module of its own.
PACKAGES = ("diffusers.models.transformers", "diffusers.models.unets")
# What schedulers of diffusers import; only two of them use it.
OF_SCHEDULERS = ("scipy.stats", "scipy.integrate")


@contextmanager
def only_what_networks_need() -> Iterator[None]:
    """Within it, diffusers' networks are imported without what they do not use.

    Afterwards everything can be imported as ever. Networks that are imported within it cannot be
    compiled, and text encoders get no LoRA weights.
    """
    with ExitStack() as stack:
        if "torch._dynamo" not in sys.modules:
            stack.enter_context(replaced_module("torch._dynamo", without_dynamo()))
        for name in OF_SCHEDULERS:
            if name not in sys.modules and importlib.util.find_spec("scipy"):
                sys.modules[name] = ImportedWhenUsed(name)
        stack.enter_context(without_transformers())
        for name in PACKAGES:
            if name not in sys.modules:
                stack.enter_context(replaced_module(name, without_init(name)))
        yield


@contextmanager
def replaced_module(name: str, module: ModuleType | None) -> Iterator[None]:
    """Within it, `module` is imported under this name; for None, nothing can be."""
    modules: dict[str, Any] = sys.modules
    modules[name] = module
    try:
        yield
    finally:
        if modules.get(name) is module:
            del modules[name]


def without_dynamo() -> ModuleType:
    """What diffusers has from torch._dynamo at import: two decorators, which change nothing."""
    module: Any = ModuleType("torch._dynamo")
    module.allow_in_graph = lambda function: function
    module.disable = lambda function=None, *_, **__: function or (lambda inner: inner)
    return module


def without_init(name: str) -> ModuleType:
    """A package whose modules can be imported, without what its __init__ imports."""
    module = ModuleType(name)
    module.__spec__ = importlib.util.find_spec(name)
    module.__path__ = locations_of(name)
    return module


def locations_of(package: str) -> list[str]:
    """The folders in which the modules of a package are."""
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec else []


class ImportedWhenUsed(ModuleType):
    """A package that is imported at the first use of a name in it; its modules can be imported.

    importlib's LazyLoader would import it as soon as `inspect` asks every module for its file.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = locations_of(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def without_transformers() -> Iterator[None]:
    """Within it, diffusers does not know that transformers is installed."""
    import diffusers.loaders  # noqa: F401  # what it offers depends on transformers: all of it
    from diffusers.utils import import_utils

    flags: Any = import_utils
    known = flags._transformers_available
    flags._transformers_available = False
    # diffusers.quantizers asks no flag: it tries to import it, and does without.
    blocked = nullcontext() if "transformers" in sys.modules else replaced_module("transformers", None)
    try:
        with blocked:
            yield
    finally:
        flags._transformers_available = known
