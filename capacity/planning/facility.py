"""Facility figures and cost of nodes: rack, power, heat, storage, warm-up, price. None where not known."""

from __future__ import annotations

from dataclasses import dataclass

from capacity.catalog import document
from capacity.errors import UnknownName
from capacity.hardware.nodes import Hardware
from capacity.memory.weights import checkpoint_bytes
from capacity.model.model import Model
from capacity.precision import weight_format
from capacity.units import GB, GIB

# Share of the nameplate power that a busy inference node draws: decode is memory-bound, so arithmetic units idle.
EXPECTED_POWER_SHARE = 0.75
_BTU_PER_WH = 3.412142
HOURS_PER_MONTH = 730
# Disk space of compiled kernels, captured graphs and tokenizers, beside the weights.
_RUNTIME_CACHE_BYTES = 20 * GIB
_LOG_BYTES_PER_REQUEST = 2_000
# Days that logs are kept, by scenario.
RETENTION_DAYS = {"minimum": 7, "recommended": 30, "ideal": 90}


@dataclass(frozen=True, slots=True)
class Storage:
    """Disk bytes: weights and runtime cache per node, logs of all nodes together."""

    weights_bytes: int
    runtime_cache_bytes: int
    log_bytes: int | None
    retention_days: int

    def total_bytes(self, nodes: int) -> int:
        """Bytes over all nodes."""
        return nodes * (self.weights_bytes + self.runtime_cache_bytes) + (self.log_bytes or 0)


@dataclass(frozen=True, slots=True)
class Facility:
    """Figures of one scenario's nodes. `nameplate_w` is their maximum power, `expected_w` the likely one."""

    nodes: int
    rack_units: float | None
    nameplate_w: float | None
    expected_w: float | None
    heat_btu_per_hour: float | None
    storage: Storage
    warm_up_s: float
    usd_per_hour: float | None
    usd_per_month: float | None
    usd_per_1k_requests: float | None
    price_note: str


@dataclass(frozen=True, slots=True)
class StorageProfile:
    """A disk that weights are read from: bytes per second, and the 99th percentile of a read in milliseconds."""

    name: str
    read_bytes_per_s: float
    read_p99_ms: float | None


def storage_profile(name: str = "profile_default") -> StorageProfile:
    """The storage profile called `name`; raises UnknownName."""
    profiles = document("storage")["profiles"]
    for profile in profiles:
        if profile["name"] == name:
            return StorageProfile(name, profile["read_gb_s"] * GB, profile.get("read_p99_ms"))
    raise UnknownName("storage profile", name, [profile["name"] for profile in profiles])


def facility(
    scenario: str,
    nodes: int,
    hardware: Hardware,
    model: Model,
    weights_dtype: str | None,
    profile: StorageProfile,
    requests_per_s: float | None,
) -> Facility:
    """Rack, power, storage, warm-up and cost of `nodes` nodes; `requests_per_s` (all nodes) where a rate is known."""
    weights = checkpoint_bytes(model, weight_format(weights_dtype) if weights_dtype else None)[0]
    days = RETENTION_DAYS.get(scenario, RETENTION_DAYS["recommended"])
    logs = round(requests_per_s * 86_400 * days * _LOG_BYTES_PER_REQUEST) if requests_per_s else None
    power = hardware.power_w * nodes if hardware.power_w else None
    heat = hardware.heat_btu_per_hour or (hardware.power_w * _BTU_PER_WH if hardware.power_w else None)
    hourly = hardware.price.usd_per_hour * nodes if hardware.price else None
    return Facility(
        nodes=nodes,
        rack_units=hardware.rack_units * nodes if hardware.rack_units else None,
        nameplate_w=power,
        expected_w=power * EXPECTED_POWER_SHARE if power else None,
        heat_btu_per_hour=heat * nodes if heat else None,
        storage=Storage(weights, _RUNTIME_CACHE_BYTES, logs, days),
        warm_up_s=weights / profile.read_bytes_per_s,
        usd_per_hour=hourly,
        usd_per_month=hourly * HOURS_PER_MONTH if hourly else None,
        usd_per_1k_requests=hourly / (requests_per_s * 3.6) if hourly and requests_per_s else None,
        price_note=_price_note(hardware),
    )


def _price_note(hardware: Hardware) -> str:
    if hardware.price is None:
        return hardware.price_note or "no price known"
    price = hardware.price
    where = ", ".join(part for part in (price.region, price.as_of) if part)
    return f"{price.kind} price" + (f" ({where})" if where else "")
