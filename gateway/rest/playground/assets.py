"""The page's files, read into memory once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str  # quoted, of the content

    @classmethod
    def of(cls, content: bytes, suffix: str) -> "Asset":
        """The content of a file whose name ends so.

        Raises:
            KeyError: No media type is known for the suffix.
        """
        return cls(content, MEDIA_TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every file of the page, by its name."""
    return {path.name: Asset.of(path.read_bytes(), path.suffix) for path in folder.iterdir()}
