"""Machines: devices with their memory and speed, and a node's facility figures and price.

A GPU's memory is what the driver's NVML reports; marketing gigabytes are kept too, for the reference method only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capacity.catalog import document, read_json
from capacity.errors import InvalidInput, UnknownName
from capacity.hardware.machine import memory_bytes, processors
from capacity.hardware.validate import problems_of_gpu, problems_of_server
from capacity.units import GB, GIB, MIB


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator (or, for `kind` cpu, the machine's memory).

    Bandwidth in bytes per second and dense peaks in FLOP per second, by dtype; None where not known.
    """

    name: str
    kind: str
    memory_bytes: int
    marketing_bytes: int
    bandwidth_bytes_per_s: float | None
    peak_flops: Mapping[str, float]
    compute_capability: float | None
    source: str
    confidence: str

    def peak(self, dtype: str) -> float | None:
        """Dense FLOP/s at `dtype`; the nearest wider format's where it has none, None where neither is known."""
        for candidate in (dtype, *_WIDER.get(dtype, ())):
            if self.peak_flops.get(candidate):
                return self.peak_flops[candidate]
        return None


_WIDER = {
    "fp4": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "int8": ("fp8", "bf16"),
}


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars an hour of one machine, by region and date; `kind` is sagemaker, or given for a user's own file."""

    usd_per_hour: float
    kind: str
    region: str
    as_of: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """One node: `devices` accelerators of one kind, main memory, facility figures and price.

    `kind` is server, instance, gpu, cpu or custom. Facility figures and price are None where not known. `local_disk`:
    a SageMaker type with instance store volumes, which takes no EBS volume.
    """

    name: str
    kind: str
    device: Device
    devices: int
    ram_bytes: int | None
    source: str
    confidence: str
    rack_units: float | None = None
    power_w: float | None = None
    heat_btu_per_hour: float | None = None
    price: Price | None = None
    price_note: str = ""
    notes: str = ""
    local_disk: bool = False

    @property
    def is_cpu(self) -> bool:
        """Whether it has no accelerator."""
        return self.device.kind == "cpu"

    @property
    def memory_bytes(self) -> int:
        """Device memory of the whole node."""
        return self.devices * self.device.memory_bytes

    @property
    def marketing_bytes(self) -> int:
        """The node's device memory as sold, in GB × 10⁹."""
        return self.devices * self.device.marketing_bytes


def load_hardware(reference: str) -> Hardware:
    """The node called `reference`: a server, SageMaker type or GPU of the catalogue, `cpu`, or a JSON file's path.

    Raises UnknownName with the nearest three names, BrokenFile or InvalidInput for a file that is wrong.
    """
    name = reference.strip()
    if not name:
        raise InvalidInput("hardware", "is empty; give a server, an instance type, a GPU, cpu, or a JSON file")
    if name.lower() == "cpu":
        return this_machine()
    if name.lower().endswith(".json"):
        return hardware_from_file(Path(name).expanduser())
    key = _key(name)
    servers, gpus = document("servers"), document("gpus")
    server_key = _key(servers["aliases"].get(name.lower(), name))
    for server in servers["servers"]:
        if _key(server["name"]) == server_key:
            return _from_server(server, device_named(server["gpu"]), "server")
    for instance in document("instances")["instances"]:
        if key in (_key(instance["name"]), _key(instance["ec2_type"])):
            return _from_instance(instance)
    gpu_key = _key(gpus["aliases"].get(name.lower(), name))
    for gpu in gpus["gpus"]:
        if _key(gpu["name"]) == gpu_key:
            device = _device(gpu)
            return Hardware(device.name, "gpu", device, 1, None, device.source, device.confidence)
    raise UnknownName("hardware", name[:120], hardware_names(), "or cpu, or a JSON file")


def hardware_names() -> list[str]:
    """Every name and alias of servers, instances and GPUs."""
    servers, gpus = document("servers"), document("gpus")
    names = [server["name"] for server in servers["servers"]] + list(servers["aliases"])
    names += [instance["name"] for instance in document("instances")["instances"]]
    return sorted([*names, *(gpu["name"] for gpu in gpus["gpus"]), *gpus["aliases"], "cpu"])


def instance_types() -> list[Hardware]:
    """Every SageMaker instance type of the catalogue."""
    return [_from_instance(instance) for instance in document("instances")["instances"]]


def server_types() -> list[Hardware]:
    """Every server of the catalogue."""
    return [_from_server(server, device_named(server["gpu"]), "server") for server in document("servers")["servers"]]


def device_named(name: str) -> Device:
    """The GPU called `name` in the catalogue; raises UnknownName."""
    gpus = document("gpus")
    wanted = _key(gpus["aliases"].get(name.lower(), name))
    for gpu in gpus["gpus"]:
        if _key(gpu["name"]) == wanted:
            return _device(gpu)
    raise UnknownName("GPU", name, [gpu["name"] for gpu in gpus["gpus"]])


def this_machine(memory: int | None = None) -> Hardware:
    """This machine's processors and memory (the container's limit where there is one), or `memory` bytes of it."""
    found, source = memory_bytes()
    total = memory if memory is not None else found
    device = Device(
        name="cpu",
        kind="cpu",
        memory_bytes=total,
        marketing_bytes=total,
        bandwidth_bytes_per_s=None,
        peak_flops={},
        compute_capability=None,
        source=source if memory is None else "given",
        confidence="read" if memory is None else "given",
    )
    return Hardware(
        "cpu", "cpu", device, 1, total, device.source, device.confidence, notes=f"{processors()} processors"
    )


def hardware_from_file(path: Path) -> Hardware:
    """A custom node from a JSON file: name, gpus, gpu (a catalogue name or an object), and facility figures.

    Every problem of the file is named at once in one InvalidInput.
    """
    raw = read_json(path)
    problems = problems_of_server(raw)
    if problems:
        raise InvalidInput(str(path), "; ".join(problems))
    gpu = raw["gpu"]
    device = device_named(gpu) if isinstance(gpu, str) else _device({"source": str(path), "confidence": "given", **gpu})
    return _from_server({"source": str(path), "confidence": "given", **raw}, device, "custom")


def custom_hardware(
    devices: int,
    gpu: str | None = None,
    memory_mib: int | None = None,
    bandwidth_gb_s: float | None = None,
    tflops: float | None = None,
) -> Hardware:
    """A custom node from flags: a catalogue GPU, or memory (MiB, as NVML reports it) with bandwidth and bf16 TFLOPS."""
    if gpu is not None:
        device = device_named(gpu)
        if memory_mib is not None:
            device = replace(device, memory_bytes=memory_mib * MIB, marketing_bytes=memory_mib * MIB, source="given")
    elif memory_mib is not None:
        described: dict[str, Any] = {
            "name": "custom",
            "marketing_memory_gb": memory_mib * MIB / GB,
            "nvidia_smi_total_mib": memory_mib,
            "bandwidth_gb_s": bandwidth_gb_s,
            "dense_tflops": {"bf16": tflops},
            "source": "given on the command line",
            "confidence": "given",
        }
        problems = problems_of_gpu(described)
        if problems:
            raise InvalidInput("hardware", "; ".join(problems))
        device = _device(described)
    else:
        raise InvalidInput("hardware", "a custom node needs --gpu or --gpu-memory-mib")
    if devices < 1:
        raise InvalidInput("gpus", f"{devices} is below 1")
    return Hardware("custom", "custom", device, devices, None, "given on the command line", "given")


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum() or character == ".")


def _device(gpu: Mapping[str, Any]) -> Device:
    bandwidth = gpu.get("bandwidth_gb_s")
    peaks = {dtype: value * 1e12 for dtype, value in (gpu.get("dense_tflops") or {}).items() if value}
    capability = gpu.get("compute_capability")
    memory = int(gpu["nvidia_smi_total_mib"]) * MIB
    sold = gpu.get("marketing_memory_gb")
    return Device(
        name=gpu["name"],
        kind="gpu",
        memory_bytes=memory,
        marketing_bytes=round(sold * GB) if sold else memory,
        bandwidth_bytes_per_s=bandwidth * GB if bandwidth else None,
        peak_flops=peaks,
        compute_capability=float(capability) if capability else None,
        source=gpu.get("nvidia_smi_source") or gpu["source"],
        confidence=gpu["confidence"],
    )


def _from_server(server: Mapping[str, Any], device: Device, kind: str) -> Hardware:
    ram, power = server.get("system_ram_gb"), server.get("power_kw_max")
    usd = server.get("usd_per_hour")
    price = Price(float(usd), "given", "", "") if usd else None
    return Hardware(
        name=server["name"],
        kind=kind,
        device=device,
        devices=int(server["gpus"]),
        ram_bytes=int(ram * GB) if ram else None,
        source=server["source"],
        confidence=server["confidence"],
        rack_units=server.get("rack_units"),
        power_w=power * 1000 if power else None,
        heat_btu_per_hour=server.get("heat_btu_hr"),
        price=price,
        notes=server.get("notes", ""),
    )


def _from_instance(instance: Mapping[str, Any]) -> Hardware:
    ram = int(instance["ram_gib"] * GIB)
    if instance["gpu_count"]:
        device = device_named(instance["gpu"])
    else:
        device = Device("cpu", "cpu", ram, ram, None, {}, None, instance["source"], instance["confidence"])
    price, note = None, ""
    listed = instance.get("sagemaker_usd_hour")
    if listed:
        price = Price(listed["value"], "sagemaker", listed["region"], listed["as_of"])
    else:
        estimate = instance.get("sagemaker_usd_hour_estimate")
        note = "no SageMaker price known"
        if estimate:
            rate, factor = estimate["value"], estimate["multiplier"]
            note += f"; about {rate:.2f} USD/h by {factor} × the EC2 price, which is no quotation"
    return Hardware(
        name=instance["name"],
        kind="instance",
        device=device,
        devices=max(1, instance["gpu_count"]),
        ram_bytes=ram,
        source=instance["source"],
        confidence=instance["confidence"],
        price=price,
        price_note=note,
        notes=instance.get("notes", ""),
        local_disk=instance["local_disk"],
    )
