"""Search a folder of images by text, with the vectors in memory.

python examples/search.py FOLDER TEXT
"""

import os
import sys
from pathlib import Path

from openclip_triton import Client

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 3


def main(folder: Path, text: str) -> None:
    """Print the images of the folder whose vectors have the largest cosines with the text's."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    with Client(SERVER) as client:
        images = client.embed_images(paths)  # float32 [n, D], unit length
        [query] = client.embed_texts([text])
    cosines = images @ query
    for index in cosines.argsort()[::-1][:BEST]:
        print(f"{cosines[index]:.4f}  {paths[index]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
