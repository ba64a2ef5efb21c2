"""Writes the encoders of one variant to a staging folder, laid out as in the repository."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.precision.bf16 import to_openvino
from export.precision.variants import Graphs
from export.publish.leftovers import CONFIG, card_file, tokenizer_file
from export.publish.pbtxt import ANY_LENGTH, MODEL_FILES, Serving, image_config, text_config
from export.source import graph
from export.storage.durable import link
from gateway.models import manifest as contract
from gateway.models.manifest import file_sha256

PACKED = "text"  # suffix of the name of a packed text encoder


@dataclass(frozen=True, slots=True)
class Stage:
    """The staging folder of a model, and the values of its configurations."""

    folder: Path
    model_id: str
    version: int
    image_size: int
    embedding_size: int
    serving: Serving

    @property
    def tokenizer(self) -> Path:
        """Path of the tokenizer's file."""
        return self.folder / tokenizer_file(self.model_id, self.version)

    @property
    def card(self) -> Path:
        """Path of the model card."""
        return self.folder / card_file(self.model_id, self.version)

    def image(self, proto: onnx.ModelProto) -> Path:
        """Write the image encoder; return the file of its graph."""
        name, folder = self._encoder("image")
        config = image_config(name, self.image_size, self.embedding_size, self.serving)
        return self._write(proto, folder, config)

    def text(self, graphs: Graphs) -> dict[int, Path]:
        """Write the text encoder at each token length; lengths with one graph share its file."""
        protos, files = graphs.text, dict[int, Path]()
        if graphs.packed:
            name, folder = self._encoder(PACKED)
            config = text_config(name, ANY_LENGTH, self.embedding_size, self.serving)
            return dict.fromkeys(sorted(protos), self._write(protos[max(protos)], folder, config))
        for length in sorted(protos, reverse=True):
            name, folder = self._encoder(f"text-{length}")
            config = text_config(name, length, self.embedding_size, self.serving)
            shared = next((at for at in files if protos[at] is protos[length]), None)
            if shared is None:
                files[length] = self._write(protos[length], folder, config)
            else:
                files[length] = _link(files[shared], folder, config)
        return dict(sorted(files.items()))

    def triton_models(self, graphs: Graphs) -> contract.TritonModels:
        """Describe the encoders for the manifest."""
        batch = self.serving.max_batch
        return contract.TritonModels(
            image=contract.ImageEncoder(name=self._encoder("image")[0], max_batch=batch),
            text=tuple(
                contract.TextEncoder(
                    name=self._encoder(PACKED if graphs.packed else f"text-{length}")[0],
                    length=length,
                    max_batch=batch,
                    packed=graphs.packed,
                )
                for length in (sorted(graphs.text)[-1:] if graphs.packed else sorted(graphs.text))
            ),
        )

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file; `config.pbtxt` is left out, since operators may tune it."""
        known: dict[int, str] = {}
        hashes = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.name != CONFIG:
                inode = path.stat().st_ino  # token lengths share one file by hard links
                known[inode] = known.get(inode) or file_sha256(path)
                hashes[path.relative_to(self.folder).as_posix()] = known[inode]
        return hashes

    def size(self) -> int:
        """Size in bytes of the files that Triton loads, counting shared files once."""
        loaded = MODEL_FILES["tensorrt"] if self.serving.runtime == "tensorrt" else "*"
        found = [path.stat() for path in self.folder.rglob(f"*/*/{loaded}")]
        files = {stat.st_ino: stat.st_size for stat in found}
        return sum(files.values())

    def clear(self) -> None:
        """Remove the encoders, for the next candidate."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)

    def _encoder(self, suffix: str) -> tuple[str, Path]:
        name = f"{self.model_id}.{suffix}"
        return name, self.folder / name / str(self.version)

    def _write(self, proto: onnx.ModelProto, folder: Path, config: str) -> Path:
        folder.mkdir(parents=True)
        path = folder / MODEL_FILES["onnxruntime"]
        graph.save(proto, path, self.model_id)
        if self.serving.runtime == "openvino":
            path = to_openvino(path)
        (folder.parent / CONFIG).write_text(config)
        return path


def _link(source: Path, folder: Path, config: str) -> Path:
    """Link the files of a graph into the folder of another encoder, or copy them."""
    folder.mkdir(parents=True)
    for path in source.parent.iterdir():
        link(path, folder / path.name)
    (folder.parent / CONFIG).write_text(config)
    return folder / source.name
