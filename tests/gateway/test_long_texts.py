"""Texts that are dear to clean, sent to a real gateway: what others want does not wait for them."""

import threading

import httpx

from server.launcher import TritonServer
from tests.conftest import GatewayFactory
from tests.gateway.waiting import inflight, wait_until
from tests.items import RED_CIRCLE, data_url

# Each line is mended by itself, and leaves nothing: no word tells that the text is long enough.
DEAR = "&#1;\n" * 6_000
AT_LEAST = 30  # images; some 100 are answered, and were 7 when they took turns with the texts


def test_images_do_not_wait_for_long_texts(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    url = data_url(RED_CIRCLE)
    body = {
        "images": [url],
        "labels": [f"{DEAR}{number}" for number in range(5)],
        "templates": ["{}", "a {}", "the {}", "one {}"],
    }
    with start_gateway(
        triton_address=triton.addresses.grpc, decode_threads=1, request_timeout_s=300
    ) as api:
        seen: list[int] = []

        def ask() -> None:
            with httpx.Client(base_url=api.base_url, timeout=330) as client:
                seen.append(client.post("/v1/zero-shot", json=body).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: inflight(api) or seen)
        answered = 0
        while not seen:
            assert api.post("/v1/embeddings/image", content=RED_CIRCLE).is_success
            answered += 1
        asking.join()
        assert seen == [httpx.codes.OK]
        assert answered >= AT_LEAST
