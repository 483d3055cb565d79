"""Number formats, one row each: what an element takes as a plain tensor, in the KV cache and as a stored weight.

A dtype that is not in the table is refused by name; a guessed byte count would be wrong by a factor of two or four.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

from capacity.errors import UnknownName

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KvFormat:
    """How the engine stores keys and values.

    `scale_bytes` is added once for K and once for V, per token, layer and KV head: integer caches keep a scale per
    token and head (4 bytes, fp32). fp8 caches as engines ship them keep one scale a tensor, which is nothing here.
    `latent_bytes_per_token` overrides the size of a sparse-attention MLA entry (fp8_ds_mla: 512 fp8 values, 4 fp32
    scales and 64 bf16 rotary values make 656 bytes).
    """

    name: str
    element_bytes: Fraction
    scale_bytes: int = 0
    latent_bytes_per_token: int | None = None

    def vector_bytes(self, elements: int) -> Fraction:
        """Bytes of one K or V vector of one head, its scale included."""
        return elements * self.element_bytes + self.scale_bytes


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How weights are stored: bytes a parameter, scales and zero points spread over the group.

    `scope` says what takes the format: "all" parameters, "linear" (every projection and expert of the layers) or
    "experts"; embeddings, the output head, norms and routers otherwise keep the model's dtype.
    """

    name: str
    bytes_per_parameter: Fraction
    scope: Literal["all", "linear", "experts"] = "linear"


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A row. `torch` and `element_bytes` are those of a tensor, `kv` and `weights` None where nothing is stored so.

    `minimum_compute_capability` is the oldest NVIDIA GPU with arithmetic for the format; 0 for any GPU and CPUs too.
    """

    name: str
    torch: str = ""
    element_bytes: Fraction = Fraction(0)
    kv: KvFormat | None = None
    weights: WeightFormat | None = None
    aliases: tuple[str, ...] = ()
    minimum_compute_capability: float = 0.0

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name that a config.json or a user gives it."""
        return (self.name, *((self.torch,) if self.torch else ()), *self.aliases)


def _plain(name: str, torch: str, size: int, *aliases: str) -> NumberFormat:
    """A floating-point format for everything: tensors, KV and all weights, embeddings and norms included."""
    each = Fraction(size)
    return NumberFormat(name, torch, each, KvFormat(name, each), WeightFormat(name, each, "all"), aliases)


# Sources: MXFP4 is 4 bits and one 8-bit scale per 32 (OCP MX specification); NVFP4 one fp8 scale per 16; FP8 block one
# fp32 scale per 128×128; AWQ/GPTQ at group 128 a fp16 scale and a 4-bit zero point, 2.5 bytes per 128 parameters.
_ONE, _HALF = Fraction(1), Fraction(1, 2)
FORMATS = (
    NumberFormat("fp64", "float64", Fraction(8), aliases=("double",)),
    _plain("fp32", "float32", 4, "float"),
    _plain("fp16", "float16", 2, "half"),
    _plain("bf16", "bfloat16", 2),
    NumberFormat(
        "fp8", "float8_e4m3fn", _ONE, KvFormat("fp8", _ONE), WeightFormat("fp8", _ONE), minimum_compute_capability=8.9
    ),
    NumberFormat("fp8_e4m3", "float8_e4m3fn", _ONE, KvFormat("fp8_e4m3", _ONE), aliases=("float8_e4m3",)),
    NumberFormat("fp8_e5m2", "float8_e5m2", _ONE, KvFormat("fp8_e5m2", _ONE)),
    NumberFormat("fp8_per_token_head", kv=KvFormat("fp8_per_token_head", _ONE, scale_bytes=4)),
    NumberFormat("fp8_ds_mla", kv=KvFormat("fp8_ds_mla", _ONE, latent_bytes_per_token=656)),
    NumberFormat(
        "fp8_block", weights=WeightFormat("fp8_block", 1 + Fraction(4, 128 * 128)), minimum_compute_capability=8.9
    ),
    NumberFormat(
        "int8",
        "int8",
        _ONE,
        KvFormat("int8", _ONE, scale_bytes=4),
        WeightFormat("int8", _ONE),
        aliases=("int8_per_token_head",),
    ),
    NumberFormat(
        "int4",
        "int4",
        _HALF,
        KvFormat("int4", _HALF, scale_bytes=4),
        WeightFormat("int4", _HALF + Fraction(5, 2 * 128)),
    ),
    # OpenVINO's CPU cache, where K and V are equally wide: a scale and a zero point (fp32) for every channel of a block
    # of 32 keys and for every value, 8/32 a key's element and 8 a value, here half of each on either.
    NumberFormat("u8", kv=KvFormat("u8", 1 + Fraction(1, 8), scale_bytes=4)),
    NumberFormat("mxfp4", weights=WeightFormat("mxfp4", Fraction(17, 32), "experts")),
    NumberFormat("nvfp4", weights=WeightFormat("nvfp4", Fraction(9, 16)), minimum_compute_capability=10.0),
)
# By every spelling; of two rows with one torch dtype, the later is taken.
_TENSORS = {spelling: row for row in FORMATS if row.torch for spelling in row.spellings}
_KV = {spelling: row.kv for row in FORMATS if row.kv for spelling in row.spellings}
_WEIGHTS = {spelling: row.weights for row in FORMATS if row.weights for spelling in row.spellings}
_WEIGHTS |= dict.fromkeys(("awq", "gptq"), _WEIGHTS["int4"])
_MINIMUM_CAPABILITY = {row.name: row.minimum_compute_capability for row in FORMATS}


def dtype_name(name: str) -> str:
    """The name that torch gives an element type; raises UnknownName for one that is not known."""
    return _found(_TENSORS, "dtype", name).torch


def element_bytes(name: str) -> Fraction:
    """Bytes of one element of a tensor of the dtype `name`."""
    return _found(_TENSORS, "dtype", name).element_bytes


def kv_format(name: str) -> KvFormat:
    """The KV format called `name`; raises UnknownName for one that is not known."""
    return _found(_KV, "KV dtype", name)


def weight_format(name: str) -> WeightFormat:
    """The weight format called `name`; raises UnknownName for one that is not known."""
    return _found(_WEIGHTS, "weight dtype", name)


def minimum_compute_capability(name: str) -> float:
    """The compute capability that a GPU needs for arithmetic in the KV or weight format `name`; 0 where any will do."""
    return _MINIMUM_CAPABILITY[name]


def _found(table: Mapping[str, _T], kind: str, name: str) -> _T:
    plain = name.strip().lower().removeprefix("torch.")
    if plain not in table:
        raise UnknownName(kind, name, table)
    return table[plain]
