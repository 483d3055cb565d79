"""The command that makes an artifact: `python -m rag.build_artifact --documents corpus --output build/artifact`.

Documents and models become one directory to upload to S3 (see rag/artifact.py). Models, context and so on are the
settings of `serve`, from the environment; those set there are written to the artifact. HARDWARE names the machine that
the plan is made for.

Embeddings are kept in OUTPUT.embeddings, so only new or changed documents are embedded. Weights are hard-linked where
the file system allows it, else copied. Exit code 2 for input that can't be used, 3 where the plan does not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from rag import artifact
from rag.build_index import build, default_store, read
from rag.checkpoint import refuse_pickle, resolve_model
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder, embedder_directory
from rag.errors import DoesNotFit, InvalidRequest, RagError
from rag.planning import make_plan
from rag.retrieval.manifest import writing
from rag.settings import Settings

# Not written to the artifact: settings of the building machine, and paths that the artifact sets.
_NOT_COPIED = {
    "artifact", "llm", "embedding_model", "reranker", "index", "hardware", "host", "port", "device", "threads",
}  # fmt: skip

# Formats of other libraries, which models have in addition to safetensors.
_NOT_LOADED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.tflite")
_NOT_LOADED_FOLDERS = {"onnx", "openvino", "original", "coreml"}

_COPY_BYTES = 16 << 20


def make_artifact(settings: Settings, documents: Path, output: Path, *, strict: bool = False) -> str:
    """Write the artifact of `documents` and of the models in `settings` to `output`, atomically; returns a summary.

    Raises InvalidRequest where `output` exists and is not an artifact, DoesNotFit where the plan does not fit, and the
    errors of reading, embedding and indexing.
    """
    if output.exists() and not artifact.is_artifact(output) and not (output.is_dir() and not any(output.iterdir())):
        raise InvalidRequest(
            f"{output} exists and is not an artifact",
            field="output",
            value=str(output),
            remedy="choose another directory",
        )
    folder = read(documents, strict=strict)
    llm, embedding_model = resolve_model(settings.llm), embedder_directory(settings.embedding_model)
    refuse_pickle(llm)
    places = {"LLM": f"llm/{_name(settings.llm)}", "EMBEDDING_MODEL": f"embedder/{_name(settings.embedding_model)}"}
    sources = {"LLM": llm, "EMBEDDING_MODEL": embedding_model}
    if settings.reranker:
        places["RERANKER"] = f"reranker/{_name(settings.reranker)}"
        sources["RERANKER"] = resolve_model(settings.reranker)
    with writing(output) as draft:
        for name, place in places.items():
            place_model(sources[name], draft / place)
        embedder = SentenceTransformerEmbedder.load(
            str(draft / places["EMBEDDING_MODEL"]),
            device="cpu" if settings.device == "auto" else settings.device,
            query_prefix=settings.query_prefix,
            passage_prefix=settings.passage_prefix,
            trust_remote_code=settings.trust_remote_code,
        )
        with closing(embedder):
            summary = build(
                folder,
                draft / "index",
                embedder,
                embeddings=default_store(output),
            )
        print(summary.replace(str(draft), str(output)))
        places["INDEX"] = "index"
        plan = make_plan(settings.model_copy(update={name.lower(): str(draft / at) for name, at in places.items()}))
        _write_json(draft / artifact.PLAN, plan.to_json())
        _write_json(draft / artifact.SETTINGS, {**settings_to_write(settings), **places})
        _write_manifest(draft)
    return f"planned for {plan.hardware}: {plan.concurrency} sessions of {plan.max_model_len} tokens"


def settings_to_write(settings: Settings) -> dict[str, str]:
    """The variables that were set, without those of the machine that builds, as the environment would have them."""
    values = settings.model_dump(include=settings.model_fields_set - _NOT_COPIED)
    unset = {"context": "0", "concurrency": "auto"}
    kept = {}
    for name, value in values.items():
        text = str(int(value)) if isinstance(value, bool) else unset.get(name, "") if value is None else str(value)
        if text:
            kept[name.upper()] = text
    return kept


def place_model(source: Path, target: Path) -> None:
    """Hard-link or copy the files of `source` that are loaded; symbolic links into a hub cache become files."""
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and _loaded(path.relative_to(source))]
    total_bytes = sum(path.stat().st_size for path in paths)
    with tqdm(total=total_bytes, desc=target.name, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for path in paths:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path.resolve(), place, bar.update)


def write_archive(directory: Path, archive: Path) -> None:
    """Write `directory` as a .tar.gz without links, owners and times."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    total_bytes = sum(path.stat().st_size for path in paths)
    draft = archive.with_name(f".{archive.name}.part")
    try:
        # Weights hardly compress: the fastest level.
        with (
            tqdm(total=total_bytes, desc=archive.name, unit="B", unit_scale=True, unit_divisor=1024) as bar,
            tarfile.open(draft, "w:gz", compresslevel=1, dereference=True) as tar,
        ):
            for path in paths:
                member = tar.gettarinfo(path, path.relative_to(directory).as_posix())
                member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
                member.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)
                bar.update(member.size)
        draft.replace(archive)
    finally:
        draft.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        settings = Settings.from_environment({**environment, "ARTIFACT": ""})
        planned = make_artifact(settings, options.documents, options.output, strict=options.strict)
        print(f"{options.output}: {_size(options.output)}, {planned}; {time.monotonic() - began:.1f} s")
        if options.format == "tar.gz":
            archive = options.output.with_name("model.tar.gz")
            write_archive(options.output, archive)
            print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")
    except DoesNotFit as error:
        print(json.dumps(error.refusal, indent=2))
        print(f"error: {error.message} (HARDWARE names the machine that will serve)", file=sys.stderr)
        return 3
    except RagError as error:
        print(f"error: {error.message}" + (f" ({error.remedy})" if error.remedy else ""), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {options.output} can't be written: {error}", file=sys.stderr)
        return 2
    return 0


def _write_manifest(directory: Path) -> None:
    began = time.monotonic()
    total_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    with tqdm(total=total_bytes, desc="SHA-256", unit="B", unit_scale=True, unit_divisor=1024) as bar:
        artifact.write_manifest(directory, bar.update)
    took_s = time.monotonic() - began
    print(f"manifest: {total_bytes / 2**20:.1f} MiB in {took_s:.1f} s ({total_bytes / 2**20 / took_s:.0f} MiB/s)")


def _link_or_copy(source: Path, target: Path, on_bytes: Callable[[float], object]) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one that does not support hard links
        with source.open("rb") as reading, target.open("wb") as copy:
            while block := reading.read(_COPY_BYTES):
                copy.write(block)
                on_bytes(len(block))
        shutil.copymode(source, target)
    else:
        on_bytes(target.stat().st_size)


def _loaded(path: Path) -> bool:
    if any(part.startswith(".") for part in path.parts):
        return False
    return not (_NOT_LOADED_FOLDERS & set(path.parts[:-1]) or any(path.match(pattern) for pattern in _NOT_LOADED))


def _name(model: str) -> str:
    """The last part of a directory's path or of a hub id."""
    directory = Path(model).expanduser()
    return directory.resolve().name if directory.is_dir() else model.rsplit("/", maxsplit=1)[-1]


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _size(directory: Path) -> str:
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return f"{sum(sizes) / 2**20:.1f} MiB in {len(sizes)} files"


def _path(text: str) -> Path:
    return Path(text).expanduser()  # make passes a ~ on as it is


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rag.build_artifact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--documents", type=_path, required=True, help="folder of documents")
    parser.add_argument("--output", type=_path, default=Path("build/artifact"), help="default: %(default)s")
    parser.add_argument(
        "--format",
        choices=["directory", "tar.gz"],
        default="directory",
        help="tar.gz: also as one model.tar.gz beside --output (default: %(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="fail when a document has to be skipped")
    return parser


if __name__ == "__main__":
    sys.exit(main())
