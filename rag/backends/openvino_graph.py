"""A transformers causal LM as an OpenVINO graph whose attention works on KV blocks.

The graph is traced from the torch model, so every model of transformers is supported. Three things are replaced on the
way: attention becomes OpenVINO's paged-attention operation (through transformers' public AttentionInterface, so no mask
and no cache class is involved), rotary angles are looked up in a table, and all experts are computed at once.

The tokens of a step's sequences are concatenated. The graph's inputs, T tokens of S sequences:
  input_ids, position_ids (T,)   past_lens (S,)   subsequence_begins (S + 1,)   max_context_len ()
  block_indices (all blocks,)    block_indices_begins (S + 1,)   sampled (S,): the rows whose logits are wanted
and for each layer key_cache.N and value_cache.N, (blocks, kv_heads, block_size, head_dim). Its output: logits (S, V).
"""

from __future__ import annotations

import logging
import warnings
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

# The one private name of this module: the operation has no public constructor. The requirements pin openvino, and every
# load compares logits with the torch model's.
from openvino.op import _PagedAttentionExtension
from transformers import AttentionInterface
from transformers.integrations.moe import ExpertsInterface

from rag.errors import BackendRefused

_ATTENTION = "rag_paged_attention"
_EXPERTS = "rag_all_experts"
_STEP_INPUTS = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins", "max_context_len")
_INPUTS = ("input_ids", "position_ids", *_STEP_INPUTS, "sampled")


@torch.library.custom_op("rag::paged_attention", mutates_args=())
def _paged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    past_lens: torch.Tensor,
    subsequence_begins: torch.Tensor,
    block_indices: torch.Tensor,
    block_indices_begins: torch.Tensor,
    max_context_len: torch.Tensor,
    sinks: torch.Tensor,
    scale: float,
    window: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    heads: int,
) -> torch.Tensor:
    """A placeholder in the trace: query (T, heads · key_dim) → (T, heads · value_dim). Only its shape is used."""
    return query.new_zeros(query.shape[0], heads * value_dim)


@_paged_attention.register_fake
def _(query: torch.Tensor, *rest: Any) -> torch.Tensor:
    return query.new_empty(query.shape[0], rest[-1] * rest[-2])


def _to_openvino(node: Any) -> list[Any]:
    """The placeholder as OpenVINO's operation. Its 28 inputs are positional; those not used here are empty."""
    tensors = [node.get_input(index) for index in range(11)]
    scale, window, kv_heads, key_dim, value_dim = (node.get_values_from_const_input(index) for index in range(11, 16))

    def empty(dtype: Any, *shape: int) -> Any:
        return ops.constant(np.zeros(shape, dtype)).output(0)

    i32, f32 = np.int32, np.float32
    operation = _PagedAttentionExtension(
        [
            *tensors[:9],
            ops.constant(f32(scale)).output(0),
            ops.constant(i32(window)).output(0),
            empty(f32, 0),  # ALiBi slopes
            tensors[9],  # max_context_len
            empty(i32, 0),  # score aggregation
            *(empty(i32, 0), empty(i32, 0), empty(f32, 0)),  # rotation of evicted blocks
            *(empty(f32, 0), empty(i32), empty(i32)),  # sparse attention
            tensors[10],  # sinks
            *(empty(i32), empty(i32, 0), empty(i32, 0), empty(i32, 0)),  # eviction
            empty(i32, 0),  # token types
            *(empty(np.uint8, 0), empty(i32, 0)),  # tree attention
        ]
    )
    heads = {"num_k_heads": kv_heads, "k_head_size": key_dim, "num_v_heads": kv_heads, "v_head_size": value_dim}
    for name, value in heads.items():
        operation.get_rt_info()[name] = int(value)
    return [operation.output(0)]


@dataclass(slots=True)
class _Trace:
    """What the attention function reads of the current trace: block tables and caches, two a layer."""

    step: tuple[torch.Tensor, ...]
    caches: tuple[torch.Tensor, ...]


_current: ContextVar[_Trace] = ContextVar("_current")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """One layer's attention: query (1, H, T, D), key (1, H_kv, T, D), value (1, H_kv, T, D_v) → (1, T, H, D_v)."""
    if softcap is not None:
        raise _refusal("its attention scores are capped (attn_logit_softcapping)", type(module).__name__)
    layer: Any = module.layer_idx
    heads, key_dim = int(query.shape[1]), int(query.shape[3])
    kv_heads, value_dim = int(value.shape[1]), int(value.shape[3])
    trace = _current.get()
    sinks = torch.zeros(0, 0, 0, 0) if s_aux is None else s_aux.float().reshape(1, -1, 1, 1)
    attended = torch.ops.rag.paged_attention(
        query.transpose(1, 2).reshape(-1, heads * key_dim),
        key.transpose(1, 2).reshape(-1, kv_heads * key_dim),
        value.transpose(1, 2).reshape(-1, kv_heads * value_dim),
        trace.caches[2 * layer],
        trace.caches[2 * layer + 1],
        *trace.step,
        sinks,
        float(key_dim**-0.5 if scaling is None else scaling),
        int(sliding_window or 0),
        kv_heads,
        key_dim,
        value_dim,
        heads,
    )
    return attended.reshape(1, -1, heads, value_dim), None


def _all_experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Every expert for every token (T, H), weighted by the router: the choice of experts can't be traced."""

    def linear(rows: torch.Tensor, name: str) -> torch.Tensor:
        weight = getattr(self, name)
        product = torch.matmul(rows, weight if self.is_transposed else weight.transpose(1, 2))
        return product + getattr(self, f"{name}_bias")[:, None] if self.has_bias else product

    shares = hidden_states.new_zeros(hidden_states.shape[0], self.num_experts)
    shares = shares.scatter(1, top_k_index, top_k_weights)  # (T, experts)
    rows = hidden_states[None].repeat(self.num_experts, 1, 1)  # (experts, T, H); broadcasting is not supported
    rows = self._apply_gate(linear(rows, "gate_up_proj")) if self.has_gate else self.act_fn(linear(rows, "up_proj"))
    rows = linear(rows, "down_proj")
    if self.has_post_expert_norm:
        rows = self.post_expert_norm(rows)
    return (rows * shares.T[..., None]).sum(0)


AttentionInterface.register(_ATTENTION, _attend)
ExpertsInterface.register(_EXPERTS, _all_experts)


class _RotaryTable(torch.nn.Module):
    """A rotary embedding by table lookup: a product of position and frequency would lose its last digits in bfloat16,
    which can't represent every integer above 256."""

    def __init__(self, rotary: torch.nn.Module, max_model_len: int) -> None:
        super().__init__()
        self._rotary = [rotary]  # in a list, so that it is not a submodule and not part of the graph
        self._positions = torch.arange(max_model_len)[None]
        self._tables: dict[tuple[Any, ...], tuple[torch.Tensor, ...]] = {}
        self.tracing = False

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, *kind: Any, **named: Any
    ) -> tuple[torch.Tensor, ...]:
        """Cosines and sines of `position_ids` (1, T); `kind` is the layer type where a model has several."""
        key = (*kind, *named.items())
        if not self.tracing:
            self._tables[key] = tuple(table[0] for table in self._rotary[0](x, self._positions, *kind, **named))
        return tuple(torch.nn.functional.embedding(position_ids, table) for table in self._tables[key])


class _PagedModel(torch.nn.Module):
    """The model as a function of the graph's inputs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        past_lens: torch.Tensor,
        subsequence_begins: torch.Tensor,
        block_indices: torch.Tensor,
        block_indices_begins: torch.Tensor,
        max_context_len: torch.Tensor,
        sampled: torch.Tensor,
        caches: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """(T,) ids → (S, V) logits of the `sampled` rows."""
        step = (past_lens, subsequence_begins, block_indices, block_indices_begins, max_context_len)
        _current.set(_Trace(step, caches))
        output = self.model(
            input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False, logits_to_keep=sampled
        )
        logits: torch.Tensor = output.logits[0]
        return logits


def convert(model: Any, max_model_len: int) -> ov.Model:
    """The graph of `model`, a causal LM of transformers, for contexts of up to `max_model_len` tokens.

    The constants of the graph are the model's own tensors, not copies; the model itself can't be used afterwards.
    Raises BackendRefused for what the operation does not support.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    model.set_attn_implementation(_ATTENTION)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation(_EXPERTS)
    tables = _tabulate_rotary(model, max_model_len)
    paged = _PagedModel(model)
    example = _example(layers)
    logger = logging.getLogger("transformers")
    level = logger.level
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace, which are intended
        logger.setLevel(logging.ERROR)  # the tracer reads every attribute, and deprecated ones log a warning
        paged(*example)  # fills the tables
        for table in tables:
            table.tracing = True
        trace: Any = torch.jit.trace  # torch leaves it untyped
        traced = trace(paged, example, check_trace=False, strict=False)
        graph = _import(traced, example)
    logger.setLevel(level)
    _name_inputs(graph, layers)
    _fold_negations(graph)
    graph.validate_nodes_and_infer_types()
    return graph


def _import(traced: Any, example: tuple[Any, ...]) -> ov.Model:
    """By the frontend itself: ov.convert_model does the same, and sends telemetry over the network."""
    frontend = FrontEndManager().load_by_framework("pytorch")
    frontend.add_extension(ConversionExtension("rag::paged_attention", _to_openvino))
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # a reference that the loaded model does not hold
    return frontend.convert(frontend.load(decoder))


def _tabulate_rotary(model: torch.nn.Module, max_model_len: int) -> list[_RotaryTable]:
    tables = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RotaryEmbedding"):
                table = _RotaryTable(child, max_model_len)
                setattr(parent, name, table)
                tables.append(table)
    return tables


def _example(layers: int) -> tuple[Any, ...]:
    """Inputs of a step of three tokens; the trace holds for other sizes."""

    def i32(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    caches = tuple(torch.zeros(1, 1, 1, 1) for _ in range(2 * layers))
    step = (i32(0), i32(0, 3), i32(0), i32(0, 1), torch.tensor(3, dtype=torch.int32))
    return (torch.tensor([0, 1, 2]), torch.arange(3), *step, torch.tensor([2]), caches)


def _name_inputs(graph: ov.Model, layers: int) -> None:
    names = [*_INPUTS, *(f"{kind}_cache.{layer}" for layer in range(layers) for kind in ("key", "value"))]
    parameters = graph.get_parameters()
    if len(parameters) != len(names):
        raise _refusal(f"its graph has {len(parameters)} inputs, not {len(names)}", "inputs")
    for parameter, name in zip(parameters, names, strict=True):
        if "_cache." in name:
            parameter.set_element_type(ov.Type.dynamic)  # KV_CACHE_PRECISION decides when it is compiled
            parameter.set_partial_shape(ov.PartialShape([-1] * 4))
        else:
            parameter.set_partial_shape(ov.PartialShape([] if name == "max_context_len" else [-1]))
        parameter.output(0).get_tensor().set_names({name})
        parameter.set_friendly_name(name)


def _fold_negations(graph: ov.Model) -> None:
    """Rotate-half's −1 is an integer constant with a conversion; as a float constant the rotary fusion matches it."""
    for node in graph.get_ops():
        if node.get_type_name() != "Convert" or node.get_output_element_type(0) != ov.Type.f32:
            continue
        source = node.input(0).get_source_output().get_node()
        if source.get_type_name() == "Constant" and source.data.size == 1:
            constant = ops.constant(source.data.astype(np.float32))
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(constant.output(0))


def _refusal(reason: str, value: object) -> BackendRefused:
    return BackendRefused(
        f"the LLM can't become an OpenVINO graph: {reason}",
        field="LLM",
        value=value,
        remedy="set BACKEND=torch, or auto",
    )
