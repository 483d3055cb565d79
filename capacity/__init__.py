"""The capacity model: what a workload needs on an accelerator, whether it fits, and what would make it fit.

>>> from capacity import EngineSpec, Request, Workload, load_hardware, load_model, make_plan
>>> request = Request(load_model("Qwen2.5-7B"), load_hardware("ml.g5.xlarge"), Workload(4096, 4))
>>> make_plan(request).plan.instances
1

Standard library only. Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capacity.errors import BrokenFile, CapacityError, InvalidInput, UnknownName
    from capacity.hardware.nodes import Device, Hardware, load_hardware, this_machine
    from capacity.memory.kv import KvLayout, line_at, session_bytes
    from capacity.memory.overheads import Measured
    from capacity.model.model import Model, load_model, model_from_config
    from capacity.planning.explain import explain_model
    from capacity.planning.fixes import Fix, apply_fix, fixes_for
    from capacity.planning.plan import Plan, Verdict, check, make_plan
    from capacity.planning.refusal import Refusal, refuse
    from capacity.planning.workload import EngineSpec, Request, Workload

_NAMES_BY_MODULE = {
    "errors": ("BrokenFile", "CapacityError", "InvalidInput", "UnknownName"),
    "planning.explain": ("explain_model",),
    "planning.fixes": ("Fix", "apply_fix", "fixes_for"),
    "hardware.nodes": ("Device", "Hardware", "load_hardware", "this_machine"),
    "memory.kv": ("KvLayout", "line_at", "session_bytes"),
    "model.model": ("Model", "load_model", "model_from_config"),
    "memory.overheads": ("Measured",),
    "planning.plan": ("Plan", "Verdict", "check", "make_plan"),
    "planning.refusal": ("Refusal", "refuse"),
    "planning.workload": ("EngineSpec", "Request", "Workload"),
}
_MODULE_OF = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

__all__ = [
    "BrokenFile",
    "CapacityError",
    "Device",
    "EngineSpec",
    "Fix",
    "Hardware",
    "InvalidInput",
    "KvLayout",
    "Measured",
    "Model",
    "Plan",
    "Refusal",
    "Request",
    "UnknownName",
    "Verdict",
    "Workload",
    "apply_fix",
    "check",
    "explain_model",
    "fixes_for",
    "line_at",
    "load_hardware",
    "load_model",
    "make_plan",
    "model_from_config",
    "refuse",
    "session_bytes",
    "this_machine",
]


def __getattr__(name: str) -> Any:
    """Load the module that `name` lives in."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'capacity' has no attribute {name!r}")
    return getattr(importlib.import_module(f"capacity.{_MODULE_OF[name]}"), name)
