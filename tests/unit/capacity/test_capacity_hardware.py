"""Machines: memory as NVML reports it, containers' limits, custom nodes, and the catalogue's own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capacity.errors import BrokenFile, CapacityError, InvalidInput, UnknownName
from capacity.hardware.machine import memory_bytes
from capacity.hardware.nodes import custom_hardware, hardware_from_file, instance_types, load_hardware, this_machine
from capacity.hardware.validate import problems_of, validate_catalogue, validate_file
from capacity.memory.vectors import index_size
from capacity.units import GIB, MIB


def test_the_catalogue_keeps_its_own_rules() -> None:
    assert validate_catalogue() == []


@pytest.mark.parametrize(
    ("name", "mib"), [("H100-SXM5-80GB", 81_559), ("h200", 143_771), ("b200", 183_359), ("ml.g5.xlarge", 23_028)]
)
def test_a_cards_memory_is_what_nvml_reports(name: str, mib: int) -> None:
    assert load_hardware(name).device.memory_bytes == mib * MIB


def test_marketing_gigabytes_are_kept_apart_and_never_called_gib() -> None:
    server = load_hardware("dgx300")
    assert (server.name, server.devices, server.marketing_bytes) == ("DGX B300", 8, 8 * 288 * 10**9)
    assert server.marketing_bytes / GIB == pytest.approx(2145.77, abs=0.01)
    assert server.memory_bytes == 8 * 275_040 * MIB


@pytest.mark.parametrize(
    "name", ["DGX H100", "dgx-h200", "DGX B200", "dgx b300", "ml.p5.48xlarge", "p5.48xlarge", "L4"]
)
def test_names_are_found_whatever_their_spelling(name: str) -> None:
    assert load_hardware(name).devices >= 1


def test_an_unknown_server_names_the_nearest_three() -> None:
    with pytest.raises(UnknownName) as refused:
        load_hardware("dgx301")
    assert "dgx300" in refused.value.nearest
    assert len(refused.value.nearest) == 3


def test_a_price_that_is_not_known_is_none_and_said_so() -> None:
    unknown = load_hardware("ml.p5.48xlarge")
    assert unknown.price is None
    assert "no SageMaker price known" in unknown.price_note
    assert all(node.price is None or node.price.usd_per_hour > 0 for node in instance_types())


def container(root: Path, limits: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    (root / "proc/self/cgroup").write_text("0::/pod/box\n")
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ({}, 16_000_000 * 1024),
        ({"memory.max": "max\n"}, 16_000_000 * 1024),
        ({"memory.max": "4294967296\n"}, 4 * GIB),
        ({"pod/memory.max": "2147483648", "pod/box/memory.max": "max"}, 2 * GIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 16_000_000 * 1024),
        ({"memory/memory.limit_in_bytes": "1073741824"}, GIB),
    ],
)
def test_a_containers_memory_is_the_tightest_limit_on_it(tmp_path: Path, limits: dict[str, str], size: int) -> None:
    assert memory_bytes(container(tmp_path, limits))[0] == size


def test_this_machine_has_memory_and_says_where_the_figure_is_from() -> None:
    here = this_machine()
    assert here.memory_bytes > GIB // 4
    assert "meminfo" in here.source or "memory" in here.source


def node(**changes: Any) -> dict[str, Any]:
    gpu = {"name": "mine", "nvidia_smi_total_mib": 24_000, "bandwidth_gb_s": 900, "dense_tflops": {"bf16": 150}}
    return {"name": "box", "gpus": 4, "gpu": gpu, "rack_units": 4, "power_kw_max": 3.0, **changes}


def test_a_custom_node_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    path.write_text(json.dumps(node()))
    mine = hardware_from_file(path)
    assert (mine.kind, mine.devices, mine.device.memory_bytes) == ("custom", 4, 24_000 * MIB)
    assert (mine.power_w, mine.rack_units) == (3000, 4)
    assert load_hardware(str(path)) == mine


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gpus": 0}, "gpus: 0 is outside"),
        ({"gpus": 2.5}, "gpus: 2.5 is not a whole number"),
        ({"gpu": "H101"}, "H100-SXM5-80GB"),
        ({"gpu": {"name": "x"}}, "nvidia_smi_total_mib: missing"),
        ({"name": ""}, "name"),
        ({"heat_btu_hr": 99_000}, "heat_btu_hr: 99000 is not 3.0 kW"),
        ({"usd_per_hour": 0}, "usd_per_hour: 0 is outside"),
        ({"power_kw_max": "3"}, "power_kw_max: '3' is not a number"),
    ],
)
def test_each_problem_of_a_custom_node_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = tmp_path / "box.json"
    path.write_text(json.dumps(node(**changes)))
    assert any(named in problem for problem in validate_file(path))
    with pytest.raises(InvalidInput, match="box"):
        hardware_from_file(path)


def test_iops_times_block_must_be_the_throughput() -> None:
    profile = {"name": "disk", "read_gb_s": 28.0, "block_kib": 128, "read_iops": 213_623}
    assert problems_of(profile) == []
    assert "read_iops × block_kib" in problems_of({**profile, "read_iops": 100_000})[0]


def test_a_broken_file_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    path.write_text('{"name": "box",\n "gpus": 8,,}')
    with pytest.raises(BrokenFile, match=r"line 2, column 12"):
        load_hardware(str(path))


def test_a_custom_node_comes_from_flags() -> None:
    assert custom_hardware(2, gpu="L4").memory_bytes == 2 * 23_034 * MIB
    assert custom_hardware(1, memory_mib=10_000, bandwidth_gb_s=500).device.bandwidth_bytes_per_s == 500e9
    with pytest.raises(CapacityError, match="--gpu"):
        custom_hardware(1)


@pytest.mark.parametrize(
    ("factory", "each", "fixed"),
    [
        ("Flat", 4 * 384, 0),
        ("SQ8", 384, 8 * 384),
        ("SQfp16", 768, 8 * 384),
        ("IVF1024,Flat", 8 + 4 * 384, 1024 * 384 * 4),
        ("PQ48", 48, 256 * 384 * 4),
        ("PQ64x4fs", 32, 16 * 384 * 4),
        ("HNSW32", 4 * 384 + 4 * (64 + 32 / 31) + 12, 0),
        ("HNSW32,Flat", 4 * 384 + 4 * (64 + 32 / 31) + 12, 0),
        ("PCA128,Flat", 4 * 128, 384 * 128 * 4),
        ("IDMap,Flat", 8 + 4 * 384, 0),
    ],
)
def test_an_index_is_sized_by_its_factory_string(factory: str, each: float, fixed: int) -> None:
    size = index_size(factory, 384)
    assert size.bytes_per_vector == pytest.approx(each)
    assert size.fixed_bytes == fixed
    assert size.total_bytes(1000) >= 1000 * each


def test_a_factory_part_that_is_not_known_is_named() -> None:
    with pytest.raises(InvalidInput, match="'IVQ8'"):
        index_size("IVQ8,Flat", 384)
