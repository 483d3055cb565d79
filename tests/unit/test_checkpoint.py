"""A model is found on this machine or refused, and pickles are never loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag.checkpoint import public_name, refuse_pickle, refuse_remote_code, resolve_model
from rag.errors import ModelRefused


def model(tmp_path: Path, *files: str, modules: object = None) -> Path:
    for name in ("config.json", *files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    if modules is not None:
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    return tmp_path


DENSE = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(str(model(tmp_path))) == tmp_path
    assert public_name(str(tmp_path)) == tmp_path.name


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="holds no model"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["", "no/such-model", "not a hub id", "../..x", "a/b/c"])
def test_an_unknown_name_is_refused_without_network_access(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelRefused):
        resolve_model(name)


def test_a_hub_id_is_looked_up_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--some--model"
    model(cache / "snapshots" / "abc123", "model.safetensors")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("some/model") == cache / "snapshots" / "abc123"
    assert public_name("some/model") == "some/model"


def test_safetensors_pass_even_beside_a_pickle(tmp_path: Path) -> None:
    refuse_pickle(model(tmp_path, "model.safetensors", "pytorch_model.bin", "training_args.bin"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-2.bin", "model.pt", "a.ckpt", "b.pkl"])
def test_weights_in_pickles_only_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelRefused, match=name) as refused:
        refuse_pickle(model(tmp_path, name))
    assert "safe_serialization" in str(refused.value.remedy)


def test_a_pickle_in_a_module_s_folder_is_refused_too(tmp_path: Path) -> None:
    directory = model(tmp_path, "model.safetensors", "2_Dense/pytorch_model.bin", modules=DENSE)
    with pytest.raises(ModelRefused, match=r"2_Dense/pytorch_model\.bin"):
        refuse_pickle(directory)
    (directory / "2_Dense" / "model.safetensors").touch()
    refuse_pickle(directory)


def test_a_module_from_outside_of_sentence_transformers_is_remote_code(tmp_path: Path) -> None:
    refuse_remote_code(model(tmp_path, modules=DENSE))
    with pytest.raises(ModelRefused, match=r"custom\.Pooling"):
        refuse_remote_code(model(tmp_path, modules=[{"path": "", "type": "custom.Pooling"}]))


def test_a_config_that_is_not_json_is_refused_by_its_path(tmp_path: Path) -> None:
    directory = model(tmp_path)
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelRefused, match=r"config\.json can't be read as JSON"):
        refuse_remote_code(directory)
