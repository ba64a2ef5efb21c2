"""What an export tells the user at its end."""

from pathlib import Path

from gateway.manifest import Manifest


def summary(manifest: Manifest, root: Path) -> str:
    """A few lines: id, place, sizes, cosines, fingerprint, and how to serve it."""
    image, *texts = (manifest.triton.image, *manifest.triton.text)
    lengths = ", ".join(str(length) for length in manifest.token_lengths)
    gate = manifest.gate
    return (
        f"published    {manifest.id}, version {manifest.version}, in {root}\n"
        f"image tower  {image.name}: {_size(manifest, root, image.name)}, "
        f"{manifest.preprocessing.image_size} pixels -> {manifest.embedding_size} dimensions\n"
        f"text tower   {texts[-1].name}: {_size(manifest, root, texts[-1].name)}, "
        f"served at {lengths} tokens\n"
        f"cosine       image {gate.image_min_cosine:.7f}, text {gate.text_min_cosine:.7f} "
        f"(lowest of {gate.samples} samples; {gate.threshold} needed)\n"
        f"fingerprint  {manifest.fingerprint}\n"
        f"serve it     make run MODEL_REPOSITORY={root}\n"
    )


def _size(manifest: Manifest, root: Path, tower: str) -> str:
    folder = root / tower / str(manifest.version)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{size / 1e6:.1f} MB"
