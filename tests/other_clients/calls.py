"""What clients of other makers are asked to do, each in its own way.

    python -m tests.other_clients.calls URL IMAGE

runs in the environment of `make test-clients`, and prints a JSON object: what each call answered,
by the client and the kind of call. Each call imports its client's package by itself.
"""

import base64
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TEXTS = ["a photo of a red circle.", "a blue star"]
QUERY = "a red circle"
DOCUMENTS = ["a blue star", "a photo of a red circle.", "a green square"]
BEST = 2  # of the documents are asked for
KEY = "none"
BATCH_S = 120

Kind = Literal["texts", "image", "rerank", "models", "batch"]
Vectors = list[list[float]]  # of TEXTS, or of the image alone
Order = list[tuple[int, float]]  # of the BEST documents: index and score, best first


@dataclass(frozen=True)
class Service:
    """What is called: its URL without a path, and a picture in a PNG file."""

    url: str
    image: Path

    @property
    def v1(self) -> str:
        """The base URL of OpenAI's clients."""
        return f"{self.url}/v1"

    @property
    def data_url(self) -> str:
        """The picture, as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.image.read_bytes()).decode()}"


Call = Callable[[Service], Any]


@dataclass(frozen=True)
class Client:
    """A client, as docs/api.md names it."""

    name: str
    package: str  # "": the bodies that its documentation shows are sent
    base: str = ""  # what follows the service's URL in its base URL


CALLS: dict[Client, dict[Kind, Call]] = {}


def call(client: Client, kind: Kind) -> Callable[[Call], Call]:
    """Declares a function to be this call of a client."""

    def declared(function: Call) -> Call:
        CALLS.setdefault(client, {})[kind] = function
        return function

    return declared


OPENAI = Client("`openai.OpenAI`", "openai", "/v1")
COHERE = Client("`cohere.ClientV2`", "cohere")
COHERE_V1 = Client("`cohere.Client`", "cohere")
INFINITY = Client("`infinity_client.Client`", "infinity-client")
INFINITY_VISION = Client("`infinity_client.vision_client.InfinityVisionAPI`", "infinity-client")
LANGCHAIN_OPENAI = Client("LangChain `OpenAIEmbeddings`", "langchain-openai", "/v1")
LANGCHAIN_COHERE = Client("LangChain `CohereRerank`", "langchain-cohere")
LITELLM_OPENAI = Client("LiteLLM `openai/`", "litellm", "/v1")
LITELLM_INFINITY = Client("LiteLLM `infinity/`", "litellm")
LITELLM_COHERE = Client("LiteLLM `cohere/`", "litellm")
LLAMA_INDEX_OPENAI = Client(
    "LlamaIndex `OpenAILikeEmbedding`", "llama-index-embeddings-openai-like", "/v1"
)
LLAMA_INDEX_COHERE = Client("LlamaIndex `CohereRerank`", "llama-index-postprocessor-cohere-rerank")
HAYSTACK_OPENAI = Client("Haystack `OpenAIDocumentEmbedder`", "haystack-ai", "/v1")
HAYSTACK_COHERE_EMBEDDER = Client("Haystack `CohereDocumentEmbedder`", "cohere-haystack")
HAYSTACK_COHERE = Client("Haystack `CohereRanker`", "cohere-haystack")
HUGGING_FACE = Client("`huggingface_hub.InferenceClient`", "huggingface-hub")
TEI = Client("text-embeddings-inference", "")
NV_CLIP = Client("NVIDIA NV-CLIP", "", "/v1")
JINA = Client("Jina", "", "/v1")
VLLM = Client("vLLM", "", "/v1")


@call(OPENAI, "texts")
def openai_texts(service: Service) -> Vectors:
    return _openai(service, TEXTS)


@call(OPENAI, "image")
def openai_image(service: Service) -> Vectors:
    return _openai(service, [service.data_url])


def _openai(service: Service, items: list[str]) -> Vectors:
    import openai

    client = openai.OpenAI(base_url=service.v1, api_key=KEY)
    return [each.embedding for each in client.embeddings.create(model="demo", input=items).data]


@call(OPENAI, "models")
def openai_models(service: Service) -> list[str]:
    import openai

    client = openai.OpenAI(base_url=service.v1, api_key=KEY)
    return [each.id for each in client.models.list()]


@call(OPENAI, "batch")
def openai_batch(service: Service) -> Vectors:
    import openai

    client = openai.OpenAI(base_url=service.v1, api_key=KEY)
    lines = [
        {"custom_id": str(index), "method": "POST", "url": "/v1/embeddings",
         "body": {"model": "demo", "input": text}}
        for index, text in enumerate(TEXTS)
    ]  # fmt: skip
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=content, purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    until = time.monotonic() + BATCH_S
    while batch.status != "completed":
        assert time.monotonic() < until, batch.status
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id
    answers = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    found = {each["custom_id"]: each["response"]["body"]["data"][0] for each in answers}
    return [found[str(index)]["embedding"] for index in range(len(TEXTS))]


@call(COHERE, "texts")
def cohere_texts(service: Service) -> Vectors:
    return _cohere(service, texts=TEXTS, input_type="search_document")


@call(COHERE, "image")
def cohere_image(service: Service) -> Vectors:
    return _cohere(service, images=[service.data_url], input_type="image")


def _cohere(service: Service, **given: Any) -> Vectors:
    import cohere

    client = cohere.ClientV2(KEY, base_url=service.url)
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = client.embed(model="demo", embedding_types=kinds, **given).embeddings
    whole: Vectors = found.float_
    for rows in (found.int8, found.uint8, found.binary, found.ubinary, found.base64):
        assert len(rows) == len(whole)
    return whole


@call(COHERE, "rerank")
def cohere_rerank(service: Service) -> Order:
    import cohere

    client = cohere.ClientV2(KEY, base_url=service.url)
    answer = client.rerank(model="demo", query=QUERY, documents=DOCUMENTS, top_n=BEST)
    assert answer.meta
    assert answer.meta.tokens
    assert answer.meta.tokens.input_tokens
    return [(each.index, each.relevance_score) for each in answer.results]


@call(COHERE_V1, "rerank")
def cohere_v1_rerank(service: Service) -> Order:
    import cohere

    client = cohere.Client(KEY, base_url=service.url)
    answer = client.rerank(model="demo", query=QUERY, documents=DOCUMENTS, top_n=BEST)
    return [(each.index, each.relevance_score) for each in answer.results]


@call(INFINITY, "texts")
def infinity_texts(service: Service) -> Vectors:
    from infinity_client.api.default import embeddings
    from infinity_client.models import OpenAIEmbeddingInputText

    with _infinity(service) as client:
        answer: Any = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=TEXTS))
    return [each.embedding for each in answer.data]


@call(INFINITY, "image")
def infinity_image(service: Service) -> Vectors:
    from infinity_client.api.default import embeddings
    from infinity_client.models import (
        OpenAIEmbeddingInputImage,
        OpenAIEmbeddingInputImageModality,
    )

    body = OpenAIEmbeddingInputImage(
        input_=service.data_url, model="demo", modality=OpenAIEmbeddingInputImageModality.IMAGE
    )
    with _infinity(service) as client:
        answer: Any = embeddings.sync(client=client, body=body)
    return [each.embedding for each in answer.data]


@call(INFINITY, "rerank")
def infinity_rerank(service: Service) -> Order:
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=QUERY, documents=DOCUMENTS, top_n=BEST, return_documents=True)
    with _infinity(service) as client:
        answer: Any = rerank.sync(client=client, body=body)
    assert [each.document for each in answer.results] == [
        DOCUMENTS[each.index] for each in answer.results
    ]
    return [(each.index, each.relevance_score) for each in answer.results]


@call(INFINITY, "models")
def infinity_models(service: Service) -> list[str]:
    from infinity_client.api.default import health, models

    with _infinity(service) as client:
        assert health.sync(client=client)
        listed: Any = models.sync(client=client)
    return [each.id for each in listed.data]


def _infinity(service: Service) -> Any:
    from infinity_client import Client

    return Client(base_url=service.url, raise_on_unexpected_status=True)


@call(INFINITY_VISION, "texts")
def infinity_vision_texts(service: Service) -> Vectors:
    from infinity_client.vision_client import InfinityVisionAPI

    client = InfinityVisionAPI(service.url, model="demo")
    found, _ = client.embed(model="demo", sentences=TEXTS).result()
    return [row for each in found for row in each.tolist()]


@call(INFINITY_VISION, "image")
def infinity_vision_image(service: Service) -> Vectors:
    from infinity_client.vision_client import InfinityVisionAPI
    from PIL import Image

    client = InfinityVisionAPI(service.url, model="demo")
    with Image.open(service.image) as image:
        found, _ = client.image_embed(model="demo", images=[image.convert("RGB")]).result()
    return [row for each in found for row in each.tolist()]


@call(LANGCHAIN_OPENAI, "texts")
def langchain_openai_texts(service: Service) -> Vectors:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    embeddings = OpenAIEmbeddings(
        model="demo",
        base_url=service.v1,
        api_key=SecretStr(KEY),
        check_embedding_ctx_length=False,
    )
    return list(embeddings.embed_documents(TEXTS))


@call(LANGCHAIN_COHERE, "rerank")
def langchain_cohere_rerank(service: Service) -> Order:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    reranker = CohereRerank(model="demo", cohere_api_key=KEY, base_url=service.url, top_n=BEST)
    documents = [Document(text, metadata={"index": i}) for i, text in enumerate(DOCUMENTS)]
    found = reranker.compress_documents(documents, QUERY)
    return [(each.metadata["index"], each.metadata["relevance_score"]) for each in found]


@call(LITELLM_OPENAI, "texts")
def litellm_openai_texts(service: Service) -> Vectors:
    return _litellm("openai/demo", service.v1, TEXTS)


@call(LITELLM_OPENAI, "image")
def litellm_openai_image(service: Service) -> Vectors:
    return _litellm("openai/demo", service.v1, [service.data_url])


@call(LITELLM_INFINITY, "texts")
def litellm_infinity_texts(service: Service) -> Vectors:
    return _litellm("infinity/demo", service.url, TEXTS)


@call(LITELLM_INFINITY, "image")
def litellm_infinity_image(service: Service) -> Vectors:
    return _litellm("infinity/demo", service.url, [service.data_url])


def _litellm(model: str, base: str, items: list[str]) -> Vectors:
    import litellm

    answer = litellm.embedding(model=model, input=items, api_base=base, api_key=KEY)
    return [each["embedding"] for each in answer.data]


@call(LITELLM_COHERE, "texts")
def litellm_cohere_texts(service: Service) -> Vectors:
    return _litellm("cohere/demo", f"{service.url}/v2/embed", TEXTS)


@call(LITELLM_COHERE, "image")
def litellm_cohere_image(service: Service) -> Vectors:
    return _litellm("cohere/demo", f"{service.url}/v2/embed", [service.data_url])


@call(LITELLM_INFINITY, "rerank")
def litellm_infinity_rerank(service: Service) -> Order:
    return _litellm_rerank("infinity/demo", service.url)


@call(LITELLM_COHERE, "rerank")
def litellm_cohere_rerank(service: Service) -> Order:
    return _litellm_rerank("cohere/demo", service.url)


def _litellm_rerank(model: str, base: str) -> Order:
    import litellm

    answer = litellm.rerank(
        model=model, query=QUERY, documents=DOCUMENTS, top_n=BEST, api_base=base, api_key=KEY
    )
    for each in answer.results:
        assert each.get("document", {"text": DOCUMENTS[each["index"]]}) == {
            "text": DOCUMENTS[each["index"]]
        }
    return [(each["index"], each["relevance_score"]) for each in answer.results]


@call(LLAMA_INDEX_OPENAI, "texts")
def llama_index_texts(service: Service) -> Vectors:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(
        model_name="demo", api_base=service.v1, api_key=KEY, embed_batch_size=8
    )
    return list(embedding.get_text_embedding_batch(TEXTS))


@call(LLAMA_INDEX_COHERE, "rerank")
def llama_index_rerank(service: Service) -> Order:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    reranker = CohereRerank(top_n=BEST, model="demo", api_key=KEY, base_url=service.url)
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=f"{i}")) for i, text in enumerate(DOCUMENTS)
    ]
    found = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
    return [(int(each.node.node_id), each.score) for each in found]


@call(HAYSTACK_OPENAI, "texts")
def haystack_texts(service: Service) -> Vectors:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder
    from haystack.utils import Secret

    embedder = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(KEY), model="demo", api_base_url=service.v1,
        progress_bar=False,
    )  # fmt: skip
    found = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    return [each.embedding for each in found]


@call(HAYSTACK_COHERE_EMBEDDER, "texts")
def haystack_cohere_texts(service: Service) -> Vectors:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder

    embedder = CohereDocumentEmbedder(
        api_key=Secret.from_token(KEY), model="demo", api_base_url=service.url, progress_bar=False
    )
    found = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    return [each.embedding for each in found]


@call(HAYSTACK_COHERE, "rerank")
def haystack_rerank(service: Service) -> Order:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(
        model="demo", top_k=BEST, api_key=Secret.from_token(KEY), api_base_url=service.url
    )
    documents = [Document(content=text, meta={"index": i}) for i, text in enumerate(DOCUMENTS)]
    found = ranker.run(QUERY, documents)["documents"]
    return [(each.meta["index"], each.score) for each in found]


@call(HUGGING_FACE, "texts")
def hugging_face_texts(service: Service) -> Vectors:
    return _hugging_face(service, TEXTS)


@call(HUGGING_FACE, "image")
def hugging_face_image(service: Service) -> Vectors:
    return _hugging_face(service, [service.data_url])


def _hugging_face(service: Service, items: list[str]) -> Vectors:
    from huggingface_hub import InferenceClient

    client = InferenceClient(service.url, token=KEY)
    return [row.tolist() for row in client.feature_extraction(items, truncate=True)]


@call(TEI, "texts")
def tei_texts(service: Service) -> Vectors:
    body = {"inputs": TEXTS, "normalize": True, "truncate": False, "prompt_name": None}
    return list(_posted(service, "/embed", body))


@call(TEI, "rerank")
def tei_rerank(service: Service) -> Order:
    body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": False, "return_text": False}
    ranks = _posted(service, "/rerank", body | {"truncation_direction": "Right"})
    return [(each["index"], each["score"]) for each in ranks[:BEST]]


@call(TEI, "models")
def tei_models(service: Service) -> list[str]:
    import requests

    return [requests.get(f"{service.url}/info", timeout=60).json()["model_id"]]


@call(NV_CLIP, "texts")
def nv_clip_texts(service: Service) -> Vectors:
    return _embeddings(service, {"input": TEXTS, "encoding_format": "float"})


@call(NV_CLIP, "image")
def nv_clip_image(service: Service) -> Vectors:
    return _embeddings(service, {"input": [service.data_url], "encoding_format": "float"})


@call(JINA, "texts")
def jina_texts(service: Service) -> Vectors:
    items = [{"text": text} for text in TEXTS]
    return _embeddings(service, {"input": items, "normalized": True, "embedding_type": "float"})


@call(JINA, "image")
def jina_image(service: Service) -> Vectors:
    image = service.data_url.partition(",")[2]
    return _embeddings(service, {"input": [{"image": image}], "normalized": True})


@call(JINA, "rerank")
def jina_rerank(service: Service) -> Order:
    body = {"model": "demo", "query": QUERY, "documents": DOCUMENTS, "top_n": BEST}
    results = _posted(service, "/v1/rerank", body | {"return_documents": False})["results"]
    return [(each["index"], each["relevance_score"]) for each in results]


@call(VLLM, "image")
def vllm_image(service: Service) -> Vectors:
    content = [{"type": "image_url", "image_url": {"url": service.data_url}}]
    messages = [{"role": "user", "content": content}]
    return _embeddings(service, {"messages": messages, "encoding_format": "float"})


def _embeddings(service: Service, body: dict[str, Any]) -> Vectors:
    data = _posted(service, "/v1/embeddings", {"model": "demo"} | body)["data"]
    return [each["embedding"] for each in data]


def _posted(service: Service, path: str, body: dict[str, Any]) -> Any:
    import requests

    response = requests.post(f"{service.url}{path}", json=body, timeout=60)
    response.raise_for_status()
    return response.json()


def main() -> None:
    """Make every call, and print what each answered, or the error that it ended with."""
    service = Service(sys.argv[1], Path(sys.argv[2]))
    found: dict[str, dict[str, Any]] = {}
    for client, calls in CALLS.items():
        for kind, function in calls.items():
            try:
                answer = {"answer": function(service)}
            except Exception as error:  # of whatever kind that client raises
                answer = {"error": f"{type(error).__name__}: {error}"}
            found.setdefault(client.name, {})[kind] = answer
    print(json.dumps(found))


if __name__ == "__main__":
    main()
