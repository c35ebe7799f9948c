"""The peers that our benchmarks and golden values come from, and how to make them run.

Peers live in an environment of their own, whose interpreter PEER_PYTHON names:

    python3.11 -m venv peer && . peer/bin/activate
    pip install torch==2.13.0
    pip install --no-deps omnisafe==0.5.0 safety-gymnasium==1.0.0 gymnasium-robotics==1.2.2
    pip install gymnasium==0.28.1 mujoco==2.3.3 pygame==2.6.1 numpy==1.23.5 PettingZoo==1.24.3 jinja2 xmltodict \\
        pyyaml imageio tensorboard wandb moviepy typer seaborn pandas==2.0.3 matplotlib gdown
    export PEER_PYTHON=$PWD/peer/bin/python

This file imports only the standard library at its head, so that both interpreters can read it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Where it finds AVX-512, the peer's NumPy computes sines and cosines that are wrong in the last bit, and a wheel that
# starts at exactly the height of the floor touches it or not by that bit. Golden values, which scripts called parity_…
# write, must be the same on any machine; where speed is measured the peer runs as its users get it. NumPy reads this
# when it is imported, so those scripts import this file first.
if Path(sys.argv[0]).name.startswith("parity_"):
    os.environ["NPY_DISABLE_CPU_FEATURES"] = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"


def peer_python() -> str:
    """The peers' interpreter; leaves with a sentence when PEER_PYTHON names none."""
    given = os.environ.get("PEER_PYTHON", "")
    if not Path(given).is_file():
        sys.exit(f"PEER_PYTHON is {given!r}, which is no interpreter. Make one as the head of {__file__} says.")
    return given


@contextlib.contextmanager
def _array_defaults() -> Iterator[None]:
    """Let dataclasses have NumPy arrays as defaults: Python 3.11 forbids what safety-gymnasium 1.0.0 uses."""
    import numpy as np

    original = dataclasses.dataclass

    def lenient(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda c: lenient(c, **options)
        for name in vars(cls).get("__annotations__", {}):
            default = vars(cls).get(name)
            if isinstance(default, np.ndarray):
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        return original(cls, **options)

    dataclasses.dataclass = lenient
    try:
        yield
    finally:
        dataclasses.dataclass = original


def safety_gymnasium() -> ModuleType:
    """The package, imported so that it works on Python 3.11 and newer."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with _array_defaults():
        return importlib.import_module("safety_gymnasium")


def omnisafe() -> ModuleType:
    """The package, after safety-gymnasium has been made to import."""
    safety_gymnasium()
    return importlib.import_module("omnisafe")


@contextlib.contextmanager
def without_textures() -> Iterator[None]:
    """Compile the peer's models without their textures: same physics, resets in a tenth of the time.

    For golden values only; a speed comparison lets the peer do what its users get.
    """
    import mujoco

    original = mujoco.MjModel.from_xml_string

    def plain(xml: str, *rest: Any) -> Any:
        root = ElementTree.fromstring(xml)
        for asset in root.iter("asset"):
            for texture in asset.findall("texture"):
                asset.remove(texture)
        for material in root.iter("material"):
            material.attrib.pop("texture", None)
        return original(ElementTree.tostring(root, encoding="unicode"), *rest)

    mujoco.MjModel.from_xml_string = plain
    try:
        yield
    finally:
        mujoco.MjModel.from_xml_string = original
