"""Search a folder of images by text and by image, in a multi-modal index of LlamaIndex.

python examples/search_llama_index.py FOLDER TEXT IMAGE
"""

import os
import sys
from pathlib import Path

from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.schema import ImageNode, NodeWithScore
from openclip_triton import Client
from openclip_triton.integrations.llama_index import OpenClipEmbedding

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 2


def main(folder: Path, text: str, image: str) -> None:
    """Print the images that are most like the text, and those most like the image."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    with Client(SERVER) as client:
        embedding = OpenClipEmbedding(client)
        # LlamaIndex leaves nodes out that have neither text nor metadata.
        nodes = [ImageNode(image_path=str(path), metadata={"name": path.name}) for path in paths]
        index = MultiModalVectorStoreIndex(
            nodes,
            embed_model=embedding,
            image_embed_model=embedding,
        )
        retriever = index.as_retriever(image_similarity_top_k=BEST)
        show(text, retriever.text_to_image_retrieve(text))
        show(image, retriever.image_to_image_retrieve(image))


def show(query: str, found: list[NodeWithScore]) -> None:
    """Print a query and the images that it found."""
    print(query)
    for each in found:
        print(f"  {each.score:.4f}  {each.node.image_path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
