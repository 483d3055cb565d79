"""Weight bytes of one rank: exact totals from files, divided as tensor- and pipeline-parallel engines do."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

from capacity.memory.allocation import RankPart, rank_rounding_bytes
from capacity.memory.kv import ceil_fraction
from capacity.model.model import Model, PartGroup
from capacity.precision import WeightFormat, element_bytes, weight_format
from capacity.units import ceil_div, round_up

# A kernel pads the inner sides of MXFP4 experts to whole multiples of this.
_MXFP4_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class RankWeights:
    """Bytes on the fullest rank of one pipeline stage, by what they are; `exact` where the total came from files.

    `parameter_bytes` are the model's own; `table_bytes` are rotary tables, `padding_bytes` what kernels round up,
    `absorbed_bytes` the second copy of MLA's up-projection that engines keep for decoding, `rounding_bytes` what the
    device's allocator adds to tensors.
    """

    parameter_bytes: int
    table_bytes: int
    padding_bytes: int
    absorbed_bytes: int
    rounding_bytes: int
    exact: bool
    source: str

    @property
    def total_bytes(self) -> int:
        """What loading the model takes on the rank."""
        added = self.table_bytes + self.padding_bytes + self.absorbed_bytes + self.rounding_bytes
        return self.parameter_bytes + added


def stages(layers: int, pipeline_parallel: int) -> list[range]:
    """Layer ranges of the pipeline's stages; the remainder goes to the stages before the last, one layer each."""
    each, rest = divmod(layers, pipeline_parallel)
    sizes = [each] * pipeline_parallel
    for index in range(rest):
        sizes[-(index + 2) % pipeline_parallel] += 1
    found, start = [], 0
    for size in sizes:
        found.append(range(start, start + size))
        start += size
    return found


def checkpoint_bytes(model: Model, requantized: WeightFormat | None = None) -> tuple[int, bool, str]:
    """(bytes, exact, source) of the whole checkpoint, speculative layers included; else by formula."""
    if requantized is None and model.checkpoint is not None:
        return model.checkpoint.tensor_bytes, model.checkpoint.exact, model.checkpoint.source
    source = "parameter formula over the configuration"
    return (
        ceil_fraction(_formula_bytes(model, requantized)),
        False,
        source + (f", weights as {requantized.name}" if requantized else ""),
    )


def _formula_bytes(model: Model, requantized: WeightFormat | None, *, loaded_only: bool = False) -> Fraction:
    """Bytes of all parameters by the formula."""
    groups = (group for group in model.groups if group.part.loaded or not loaded_only)
    return sum(
        (
            len(group.layers) * _bytes(model, group, group.part.elements, group.part.plain_elements, requantized)
            for group in groups
        ),
        Fraction(0),
    )


@functools.lru_cache(maxsize=512)
def rank_weights(
    model: Model,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    weights_dtype: str | None = None,
    engine_tables: bool = True,
) -> tuple[RankWeights, ...]:
    """Weights of the fullest rank of each pipeline stage, first to last.

    `weights_dtype` None keeps the checkpoint as published. `engine_tables` adds what GPU engines allocate with the
    weights (rotary tables, kernel padding, MLA's absorbed projections).
    """
    requantized = weight_format(weights_dtype) if weights_dtype else None
    whole, exact, source = checkpoint_bytes(model, requantized)
    left, absent = _unloaded(model) if requantized is None else (0, False)
    scale = Fraction(whole - left) / _formula_bytes(model, requantized, loaded_only=absent)
    found = []
    spans = stages(len(model.layers), pipeline_parallel)
    for number, span in enumerate(spans):
        held = padding = Fraction(0)
        tensors: list[RankPart] = []
        for group in model.groups:
            count = _occurrences(model, group, span, number, len(spans))
            if not count:
                continue
            elements, plain = group.part.rank_elements(tensor_parallel, padded=engine_tables)
            held += count * _bytes(model, group, elements, plain, requantized)
            tensors += _tensors(model, group, count, elements, requantized)
            if engine_tables and group.part.role == "expert" and _is_mxfp4(model, requantized):
                padding += count * _mxfp4_padding(model, elements)
        found.append(
            RankWeights(
                parameter_bytes=ceil_fraction(held * scale),
                table_bytes=_table_bytes(model) if engine_tables else 0,
                padding_bytes=ceil_fraction(padding),
                absorbed_bytes=_absorbed_bytes(model, span, tensor_parallel) if engine_tables else 0,
                rounding_bytes=rank_rounding_bytes(tensors) if engine_tables else 0,
                exact=exact,
                source=source,
            )
        )
    return tuple(found)


def _unloaded(model: Model) -> tuple[int, bool]:
    """(bytes of the file that engines do not load, whether the formula must leave its speculative layers out too).

    Where neither headers nor names show speculative layers, the formula counts them as the file does.
    """
    file = model.checkpoint
    if file is None:
        return 0, False
    left = file.unloaded_bytes
    if file.repeats_head and not file.dtypes:  # only the index was read: the copy has the bytes of the table
        left += ceil_fraction(model.vocabulary * model.hidden_size * element_bytes(model.dtype))
    return left, file.speculates is False or (file.speculates is True and bool(file.dtypes))


def _bytes(model: Model, group: PartGroup, elements: int, plain: int, requantized: WeightFormat | None) -> Fraction:
    """Bytes of these elements of one part, as published or requantised; biases keep the model's dtype."""
    usual = element_bytes(model.dtype)
    if requantized is not None and requantized.scope == "all":
        return (elements + plain) * requantized.bytes_per_parameter
    if requantized is not None:
        covered = group.part.role == "expert" or (group.part.role == "linear" and requantized.scope == "linear")
        each = requantized.bytes_per_parameter if covered else usual
    else:
        each = model.quantization.weights.bytes_per_parameter if group.quantized and model.quantization else usual
    return elements * each + plain * usual


def _occurrences(model: Model, group: PartGroup, span: range, number: int, count: int) -> int:
    """How often a part is loaded on pipeline stage `number` of `count`, whose layers are `span`."""
    part = group.part
    if not part.loaded:
        return 0
    inside = sum(layer in span for layer in group.layers if layer is not None)
    outside = sum(layer is None for layer in group.layers)
    last = number == count - 1
    if part.name in ("lm_head", "lm_head.bias", "norm"):
        here = last
    else:
        tied = part.name == "embed_tokens" and last and bool(model.config.top("tie_word_embeddings"))
        here = number == 0 or tied
    return inside + (outside if here else 0)


def _table_bytes(model: Model) -> int:
    """Rotary cosines and sines for every position, 2 bytes a value, whole on every rank."""
    config = model.config
    if not config.family.rotary or not model.max_context_tokens:
        return 0
    if config.family.attention == "mla":
        return model.max_context_tokens * config.integer("qk_rope_head_dim") * 2
    share = config.share("partial_rotary_factor") if config.get("rotary_pct") is None else config.share("rotary_pct")
    return model.max_context_tokens * int(config.head_dim * share) * 2 * config.family.rotary_tables


def _absorbed_bytes(model: Model, span: range, tensor_parallel: int) -> int:
    config = model.config
    if config.family.attention != "mla":
        return 0
    heads = ceil_div(model.attention_heads, tensor_parallel)
    each = heads * (config.integer("qk_nope_head_dim") + config.integer("v_head_dim")) * config.integer("kv_lora_rank")
    return len(span) * each * 2


def _is_mxfp4(model: Model, requantized: WeightFormat | None) -> bool:
    weights = requantized or (model.quantization.weights if model.quantization else None)
    return weights is not None and weights.name == "mxfp4"


def _tensors(
    model: Model, group: PartGroup, count: int, elements: int, requantized: WeightFormat | None
) -> list[RankPart]:
    """The part as tensors of whole bytes an element, or of integers repacked for a kernel; none where its layout is not
    known (MXFP4, NVFP4, blocks of fp8 with their scales)."""
    published = model.quantization.weights if group.quantized and model.quantization else None
    linear = group.part.role in ("linear", "expert")
    weights = published if requantized is None else requantized if linear or requantized.scope == "all" else None
    known = weights is None or weights.name in ("fp32", "fp16", "bf16", "fp8")
    repacked = weights is not None and weights.name.startswith("int")
    if repacked and weights is not None:  # without scales, which are separate small tensors
        return [RankPart(group.part, group.layers, count, elements * Fraction(int(weights.name[3:]), 8), True)]
    size = _bytes(model, group, elements, 0, requantized)
    return [RankPart(group.part, group.layers, count, size, False)] if known else []


def _mxfp4_padding(model: Model, elements: int) -> Fraction:
    """What rounding one inner side of every expert up to the kernel's multiple adds to so many expert elements."""
    width = model.hidden_size
    share = Fraction(round_up(width, _MXFP4_MULTIPLE) - width, width)
    return elements * weight_format("mxfp4").bytes_per_parameter * share
