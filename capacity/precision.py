"""Number formats: how many bytes an element of a weight or of the KV cache takes, scales included.

A dtype that is not in these tables is refused by name; a guessed byte count would be wrong by a factor of two or four.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from capacity.errors import UnknownName

# Bytes an element, by every spelling that a config.json or a user gives.
_ELEMENT_BYTES: dict[str, Fraction] = {
    "float64": Fraction(8),
    "float32": Fraction(4),
    "float16": Fraction(2),
    "bfloat16": Fraction(2),
    "float8_e4m3fn": Fraction(1),
    "float8_e5m2": Fraction(1),
    "int8": Fraction(1),
    "int4": Fraction(1, 2),
}
_SPELLINGS = {
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "float8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp64": "float64",
    "double": "float64",
}


def dtype_name(name: str, field: str = "dtype") -> str:
    """The canonical name of an element type; raises UnknownName for one that is not known."""
    plain = name.strip().lower().removeprefix("torch.")
    plain = _SPELLINGS.get(plain, plain)
    if plain not in _ELEMENT_BYTES:
        raise UnknownName(field, name, [*_SPELLINGS, *_ELEMENT_BYTES])
    return plain


def element_bytes(name: str) -> Fraction:
    """Bytes of one element of the dtype `name`."""
    return _ELEMENT_BYTES[dtype_name(name)]


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


_KV_FORMATS: dict[str, KvFormat] = {
    "fp32": KvFormat("fp32", Fraction(4)),
    "fp16": KvFormat("fp16", Fraction(2)),
    "bf16": KvFormat("bf16", Fraction(2)),
    "fp8": KvFormat("fp8", Fraction(1)),
    "fp8_e4m3": KvFormat("fp8_e4m3", Fraction(1)),
    "fp8_e5m2": KvFormat("fp8_e5m2", Fraction(1)),
    "fp8_per_token_head": KvFormat("fp8_per_token_head", Fraction(1), scale_bytes=4),
    "fp8_ds_mla": KvFormat("fp8_ds_mla", Fraction(1), latent_bytes_per_token=656),
    "int8": KvFormat("int8", Fraction(1), scale_bytes=4),
    "int4": KvFormat("int4", Fraction(1, 2), scale_bytes=4),
    # OpenVINO's CPU cache, where K and V are equally wide: a scale and a zero point (fp32) for every channel of a block
    # of 32 keys and for every value, 8/32 a key's element and 8 a value, here half of each on either.
    "u8": KvFormat("u8", 1 + Fraction(1, 8), scale_bytes=4),
}
_KV_SPELLINGS = {
    "float32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
    "int8_per_token_head": "int8",
}
KV_DTYPES = tuple(_KV_FORMATS)


def kv_format(name: str) -> KvFormat:
    """The KV format called `name`; raises UnknownName for one that is not known."""
    plain = name.strip().lower().removeprefix("torch.")
    plain = _KV_SPELLINGS.get(plain, plain)
    if plain not in _KV_FORMATS:
        raise UnknownName("KV dtype", name, [*_KV_FORMATS, *_KV_SPELLINGS])
    return _KV_FORMATS[plain]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How linear layers are stored: bytes a parameter, scales and zero points spread over the group.

    `scope` says what is quantised: "linear" (every projection and expert of the layers) or "experts".
    Embeddings, the output head, norms and routers keep the model's dtype.
    """

    name: str
    bytes_per_parameter: Fraction
    scope: str = "linear"
    minimum_compute_capability: float = 0.0


# Sources: MXFP4 is 4 bits and one 8-bit scale per 32 (OCP MX specification); NVFP4 one fp8 scale per 16; FP8 block one
# fp32 scale per 128×128; AWQ/GPTQ at group 128 a fp16 scale and a 4-bit zero point, 2.5 bytes per 128 parameters.
_WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "fp32": WeightFormat("fp32", Fraction(4)),
    "fp16": WeightFormat("fp16", Fraction(2)),
    "bf16": WeightFormat("bf16", Fraction(2)),
    "fp8": WeightFormat("fp8", Fraction(1), minimum_compute_capability=8.9),
    "fp8_block": WeightFormat("fp8_block", 1 + Fraction(4, 128 * 128), minimum_compute_capability=8.9),
    "int8": WeightFormat("int8", Fraction(1)),
    "int4": WeightFormat("int4", Fraction(1, 2) + Fraction(5, 2 * 128)),
    "mxfp4": WeightFormat("mxfp4", Fraction(17, 32), scope="experts"),
    "nvfp4": WeightFormat("nvfp4", Fraction(9, 16), minimum_compute_capability=10.0),
}
_WEIGHT_SPELLINGS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "awq": "int4", "gptq": "int4"}


def weight_format(name: str) -> WeightFormat:
    """The weight format called `name`; raises UnknownName for one that is not known."""
    plain = name.strip().lower().removeprefix("torch.")
    plain = _WEIGHT_SPELLINGS.get(plain, plain)
    if plain not in _WEIGHT_FORMATS:
        raise UnknownName("weight dtype", name, [*_WEIGHT_FORMATS, *_WEIGHT_SPELLINGS])
    return _WEIGHT_FORMATS[plain]


def is_plain(weights: WeightFormat) -> bool:
    """Whether every parameter takes this format (fp32, fp16, bf16), embeddings and norms included."""
    return weights.name in ("fp32", "fp16", "bf16")
