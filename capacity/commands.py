"""The commands plan, check, explain, validate and calibrate: parsed options in, exit status out, text on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capacity.errors import CapacityError, InvalidInput
from capacity.hardware.nodes import Hardware, custom_hardware, load_hardware, this_machine
from capacity.hardware.validate import catalogue_files, validate_catalogue, validate_file
from capacity.model.embedders import embedder_bytes
from capacity.model.model import load_model
from capacity.planning.calibrate import measure
from capacity.planning.explain import explain_model
from capacity.planning.latency import Objective, estimate_latency, largest_batch
from capacity.planning.measurements import Measurements, read_measurements
from capacity.planning.plan import Plan, Verdict, check, make_plan
from capacity.planning.refusal import Refusal, refuse
from capacity.planning.workload import EngineSpec, Request, Workload
from capacity.units import GIB, ceil_div

FITS, DOES_NOT_FIT, INVALID = 0, 3, 2


def run_plan(args: argparse.Namespace) -> int:
    """Plan: as many instances as the workload takes; 3 where no session fits, or the objective is not met."""
    request = request_of(args)
    return _answer(request, make_plan(request), args)


def run_check(args: argparse.Namespace) -> int:
    """Check: 0 where it fits on the instances given (one by default), 3 with the refusal where not."""
    request = request_of(args)
    return _answer(request, check(request), args)


def run_explain(args: argparse.Namespace) -> int:
    """Explain: bytes a token, a session and a rank."""
    figures = explain_model(
        load_model(args.model),
        kv_dtype=args.kv_dtype,
        weights_dtype=args.weights_dtype,
        tensor_parallel=args.tensor_parallel,
        pipeline_parallel=args.pipeline_parallel,
        context_tokens=args.context,
        block_size_tokens=args.block_size,
        hybrid_allocator=not args.no_hybrid_allocator,
        encoder_tokens=args.encoder_tokens,
    )
    if args.json:
        print(json.dumps(figures, indent=1, ensure_ascii=False))
        return FITS
    for name, value in figures.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        gib = f"  ({value / GIB:.3f} GiB)" if isinstance(value, int) and "bytes" in name and value >= GIB // 8 else ""
        print(f"{name:44} {shown}{gib}")
    return FITS


def run_validate(args: argparse.Namespace) -> int:
    """Validate the files given, or the catalogue; 2 where anything is wrong."""
    files = [Path(name) for name in args.files]
    problems = [problem for file in files for problem in validate_file(file)] if files else validate_catalogue()
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    names = [str(file) for file in files] or [file.name for file in catalogue_files()]
    if not problems:
        print(f"valid: {', '.join(names)}")
    return INVALID if problems else FITS


def run_calibrate(args: argparse.Namespace) -> int:
    """Calibrate: latency of a running engine, as a file for --measured."""
    latency = measure(
        args.url,
        repeats=args.repeats,
        sessions=args.sessions,
        new_tokens=args.new_tokens,
        timeout_s=args.timeout,
        log=lambda line: print(line, file=sys.stderr),
    )
    text = Measurements(args.model, args.hardware, latency=latency).dumps()
    if not args.output:
        sys.stdout.write(text)
        return FITS
    try:
        Path(args.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CapacityError(f"--output: {args.output}: {error.strerror or error}") from error
    return FITS


def request_of(args: argparse.Namespace) -> Request:
    """The Request that the flags make; raises CapacityError."""
    load = Workload(
        context_tokens=args.context,
        concurrency=args.concurrency,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
        encoder_tokens=args.encoder_tokens,
        embedder_bytes=embedder_bytes(args.embedder) if args.embedder else 0,
        vectors=args.vectors,
        dimensions=args.dimensions,
        index_factory=args.index,
    )
    engine = EngineSpec(
        tensor_parallel=args.tensor_parallel,
        pipeline_parallel=args.pipeline_parallel,
        instances=args.instances,
        utilization=args.utilization,
        block_size_tokens=args.block_size,
        kv_dtype=args.kv_dtype,
        weights_dtype=args.weights_dtype,
        max_batch_tokens=args.max_batch_tokens,
        max_sequences=args.max_sequences,
        hybrid_allocator=not args.no_hybrid_allocator,
        reserve_bytes=int(args.reserve_gib * GIB),
        measured=measurements_of(args).memory,
    )
    return Request(load_model(args.model), hardware_of(args), load, engine)


def measurements_of(args: argparse.Namespace) -> Measurements:
    """The content of the file of --measured; nothing measured without it."""
    return read_measurements(Path(args.measured)) if args.measured else Measurements()


def hardware_of(args: argparse.Namespace) -> Hardware:
    """The Hardware that the flags name; raises CapacityError."""
    if args.hardware.lower() == "custom":
        return custom_hardware(args.gpus or 1, args.gpu, args.gpu_memory_mib, args.gpu_bandwidth_gb_s, args.gpu_tflops)
    for flag in ("gpu", "gpus", "gpu_memory_mib", "gpu_bandwidth_gb_s", "gpu_tflops"):
        if getattr(args, flag) is not None:
            raise InvalidInput(f"--{flag.replace('_', '-')}", "goes with --hardware custom")
    if args.memory_gib is not None:
        if args.hardware.lower() != "cpu":
            raise InvalidInput("--memory-gib", "goes with --hardware cpu")
        return this_machine(int(args.memory_gib * GIB))
    return load_hardware(args.hardware)


def _answer(request: Request, verdict: Verdict, args: argparse.Namespace) -> int:
    if verdict.fits:
        return _fitting(request, verdict.plan, args)
    refusal = refuse(request, verdict)
    if args.json:
        print(json.dumps({"fits": False, **refusal.to_json()}, indent=1, ensure_ascii=False))
    else:
        print(refusal_text(refusal))
    return DOES_NOT_FIT


def _fitting(request: Request, plan: Plan, args: argparse.Namespace) -> int:
    """The plan with its latency; 3 where memory suffices but the latency objective is not met."""
    measured = measurements_of(args).latency
    batch = ceil_div(plan.concurrency, plan.instances * plan.replicas_per_instance)
    latency = estimate_latency(request, plan.tensor_parallel, batch, measured)
    kept = None
    if args.ttft is not None or args.tpot is not None:
        kept = largest_batch(request, plan.tensor_parallel, plan.sessions_per_replica, args.ttft, args.tpot, measured)
        if kept is None:
            raise InvalidInput(
                "--ttft, --tpot", "the device's speed is not known; measure it: calibrate, then --measured"
            )
    status = FITS if kept is None or kept.max_batch >= batch else DOES_NOT_FIT
    if args.json:
        answer: dict[str, Any] = {
            "fits": status == FITS,
            "plan": plan.to_json(),
            "engine_arguments": plan.engine_arguments,
            "latency": asdict(latency) if latency else None,
            "objective": asdict(kept) | {"sessions": kept.max_batch * _replicas(plan)} if kept else None,
        }
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return status
    print(plan_text(plan))
    if latency:
        band = f"±{latency.band:.0%}" if latency.band else "on this machine"
        pace = f"TTFT {latency.ttft_s:.2f} s, TPOT {latency.tpot_s * 1e3:.1f} ms"
        load = f"{batch} sessions a replica, {latency.input_tokens} tokens in"
        print(f"  latency ({latency.label}, {band}): {pace} with {load}")
    if kept:
        print("  " + objective_text(kept, plan, batch))
    return status


def _replicas(plan: Plan) -> int:
    """Replicas over all instances."""
    return plan.instances * plan.replicas_per_instance


def objective_text(kept: Objective, plan: Plan, batch: int) -> str:
    """The sessions that meet a latency objective, as text."""
    if kept.infeasible == "prefill":
        return (
            f"objective not reachable: the prompt alone takes {kept.needed_s:.2f} s; a shorter prompt, more tensor "
            "parallelism or a faster device would help"
        )
    if kept.infeasible:
        return (
            f"objective not reachable: one session alone takes {(kept.needed_s or 0) * 1e3:.1f} ms a token; smaller "
            "weights, more tensor parallelism or more bandwidth would help"
        )
    sessions = kept.max_batch * _replicas(plan)
    if kept.max_batch >= batch:
        return f"objective met, up to {sessions} sessions"
    instances = ceil_div(plan.concurrency * plan.instances, sessions)
    return f"objective met only up to {sessions} sessions: {instances} instances would meet it"


def plan_text(plan: Plan) -> str:
    """A plan as text."""
    what = f"{plan.instances} × {plan.hardware}"
    ranks = f"tensor parallel {plan.tensor_parallel}" + (
        f" × pipeline {plan.pipeline_parallel}" if plan.pipeline_parallel > 1 else ""
    )
    lines = [
        f"{plan.model}: {plan.concurrency} × {plan.context_tokens} tokens fit on {what}",
        f"  {ranks}, {plan.replicas_per_instance} replica(s) a node, {plan.sessions_per_instance} sessions a node",
        f"  KV {plan.kv_dtype}: {_gib(plan.kv_bytes_per_session)} a session = {plan.blocks_per_session} blocks of "
        f"{plan.block_size_tokens} tokens + {_gib(plan.slot_bytes)}; "
        f"{plan.num_blocks} blocks, {plan.num_slots} slots a rank",
        f"  a rank needs {_gib(plan.need_total_bytes)} of {_gib(plan.have_bytes)} "
        f"({plan.utilization:.0%} of {_gib(plan.device_bytes)}):",
    ]
    lines += [f"    {term.name:20} {_gib(term.bytes):>12}  {term.label}" for term in plan.terms]
    lines.append("  engine: " + " ".join(f"--{name} {value}" for name, value in plan.engine_arguments.items()))
    return "\n".join(lines)


def refusal_text(refusal: Refusal) -> str:
    """A refusal as text: what is short, the largest that fits, and the fixes, each checked."""
    need: dict[str, Any] = {name: value for name, value in refusal.need_bytes.items() if value}
    lines = [
        refusal.message,
        "  need "
        + ", ".join(f"{name} {_gib(value)}" for name, value in need.items())
        + f"; have {_gib(refusal.have_bytes)}",
        f"  largest that fits: {refusal.largest_context_tokens} tokens at this concurrency, "
        f"{refusal.largest_concurrency} sessions at this context",
    ]
    if refusal.fixes:
        lines.append("  any one of these makes it fit (each was checked):")
        lines += [f"    {number}. {fix.flags}   ({fix.effect})" for number, fix in enumerate(refusal.fixes, 1)]
    else:
        lines.append("  no fix, nor a pair of them, was found that makes it fit")
    return "\n".join(lines)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB" if abs(size_bytes) >= GIB / 100 else f"{size_bytes / 2**20:.2f} MiB"
