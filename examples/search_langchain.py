"""Search a folder of images by text and by image, in a vector store of LangChain.

python examples/search_langchain.py FOLDER TEXT IMAGE
"""

import os
import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from openclip_triton import Client
from openclip_triton.integrations.langchain import OpenClipEmbeddings

SERVER = os.environ.get("OPENCLIP_TRITON_SERVER", "127.0.0.1:8081")
BEST = 2


class ImageEmbeddings(OpenClipEmbeddings):
    """Takes documents for paths of images, for the stores of LangChain that know texts alone."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed image files: [n][D]."""
        return self.embed_image(texts)


def main(folder: Path, text: str, image: str) -> None:
    """Print the images that are most like the text, and those most like the image."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png", ".webp"})
    with Client(SERVER) as client:
        embeddings = ImageEmbeddings(client)
        store = InMemoryVectorStore(embeddings)
        store.add_documents([Document(str(path)) for path in paths])
        show(text, store.similarity_search_with_score(text, k=BEST))
        [vector] = embeddings.embed_image([image])
        show(image, store.similarity_search_with_score_by_vector(vector, k=BEST))


def show(query: str, found: list[tuple[Document, float]]) -> None:
    """Print a query and the documents that it found."""
    print(query)
    for document, cosine in found:
        print(f"  {cosine:.4f}  {document.page_content}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
