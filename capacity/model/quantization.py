"""A checkpoint's quantization_config: bytes a parameter, and the parts that are not quantised."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from capacity.errors import InvalidInput, UnknownName
from capacity.precision import WeightFormat, weight_format

_PREFIXES = ("model.layers", "model.language_model.layers", "language_model.model.layers", "model.decoder.layers")


@dataclass(frozen=True, slots=True)
class Quantization:
    """A published checkpoint's format: `weights` for the parts it covers, the model's dtype for those in `excluded`.

    `excluded` are patterns over names such as model.layers.3.self_attn.q_proj: exact, glob, or a regular expression
    after "re:".
    """

    weights: WeightFormat
    excluded: tuple[str, ...] = ()

    def covers(self, name: str, role: str, layer: int | None) -> bool:
        """Whether the part `name` (within its layer) of `role` is stored in the quantised format."""
        if role != "expert" and (role != "linear" or self.weights.scope == "experts"):
            return False
        if layer is None:
            return False
        for prefix in _PREFIXES:
            whole = f"{prefix}.{layer}.{name}"
            if any(_matches(pattern, whole) for pattern in self.excluded):
                return False
        return True


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        try:
            # A pattern may name an expert's own projection, which is below the part's name.
            return re.match(pattern[3:], name) is not None or re.match(pattern[3:], f"{name}.0.down_proj") is not None
        except re.error:
            return False
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or name.startswith(f"{pattern}.") or name.endswith(f".{pattern}")


def quantization_of(config: Any) -> Quantization | None:
    """The format of a quantization_config, None where there is none; raises UnknownName for a method not known."""
    if not config:
        return None
    if not isinstance(config, Mapping):
        raise InvalidInput("quantization_config", f"{config!r} is not an object")
    method = str(config.get("quant_method") or ("modelopt" if "quant_algo" in config else "")).lower()
    reader = _READERS.get(method)
    if reader is None:
        raise UnknownName("quant_method", method or "(none given)", _READERS)
    excluded = config.get("modules_to_not_convert") or config.get("ignore") or config.get("exclude_modules") or ()
    return Quantization(reader(config), tuple(str(pattern) for pattern in excluded))


def _grouped(bits: int, group: int, zero_points: bool = True) -> Fraction:
    """Integer weights with a 2-byte scale, and a zero point of `bits`, for every `group` of them (−1: a column)."""
    extra = Fraction(0) if group <= 0 else (2 + (Fraction(bits, 8) if zero_points else 0)) / Fraction(group)
    return Fraction(bits, 8) + extra


def _fp8(config: Mapping[str, Any]) -> WeightFormat:
    block = config.get("weight_block_size")
    if not block:
        return weight_format("fp8")
    rows, columns = (int(size) for size in block)
    return WeightFormat("fp8_block", 1 + Fraction(4, rows * columns))


def _integer(config: Mapping[str, Any]) -> WeightFormat:
    bits = int(config.get("bits") or config.get("w_bit") or 4)
    group = int(config.get("group_size") or config.get("q_group_size") or 128)
    return WeightFormat(f"int{bits}", _grouped(bits, group, bool(config.get("zero_point", True))))


def _bitsandbytes(config: Mapping[str, Any]) -> WeightFormat:
    if config.get("load_in_8bit"):
        return weight_format("int8")
    return WeightFormat("nf4", Fraction(1, 2) + Fraction(1, 32))


def _compressed_tensors(config: Mapping[str, Any]) -> WeightFormat:
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise InvalidInput("quantization_config.config_groups", "missing; compressed-tensors lists its formats there")
    weights = next(iter(groups.values())).get("weights") or {}
    bits, kind = int(weights.get("num_bits", 8)), str(weights.get("type", "int"))
    group = int(weights.get("group_size") or 0)
    if kind == "float" and bits == 4:
        return weight_format("mxfp4" if group == 32 else "nvfp4")
    if kind == "float":
        return weight_format("fp8")
    return WeightFormat(f"int{bits}", _grouped(bits, group, not weights.get("symmetric", True)))


def _modelopt(config: Mapping[str, Any]) -> WeightFormat:
    nested = config.get("quantization")
    settings = nested if isinstance(nested, Mapping) else config
    algorithm = str(settings.get("quant_algo", "")).upper()
    formats = {
        "FP8": "fp8",
        "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
        "FP8_PB_WO": "fp8_block",
        "NVFP4": "nvfp4",
        "W4A16_AWQ": "int4",
    }
    if algorithm not in formats:
        raise UnknownName("quant_algo", algorithm or "(none given)", formats)
    return weight_format(formats[algorithm])


def _mxfp4(config: Mapping[str, Any]) -> WeightFormat:
    return weight_format("mxfp4")


_READERS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "awq": _integer,
    "awq_marlin": _integer,
    "gptq": _integer,
    "gptq_marlin": _integer,
    "auto-round": _integer,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
}
