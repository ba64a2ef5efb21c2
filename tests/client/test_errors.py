"""The client's errors against the service's: every code has its class, whichever way it comes."""

import re

import grpc
import pytest
from openclip_triton.errors import BY_CODE, ClientError, InvalidRequest, of_call, of_item

from gateway import errors
from gateway.inference.client import WRONG
from gateway.rpc.problems import STATUS
from openclip_api.v1 import clip_pb2 as pb
from tests.conftest import ROOT

# gRPC has windows and deadlines instead of the one, and no files and batches.
REST_ONLY = (errors.TooSlow, errors.UnknownObject)


class Ended(grpc.RpcError):  # type: ignore[misc]
    """A call that the service ended."""

    def __init__(self, status: grpc.StatusCode, code: str) -> None:
        self.status, self.metadata = status, (("error-code", code),)

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return "because"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata


def documented() -> list[tuple[grpc.StatusCode, str]]:
    """What docs/api.md says of gRPC: each status with each of its codes."""
    text = (ROOT / "docs/api.md").read_text()
    table = text.split("| REST | gRPC | `code` | when |")[1].split("\n\n")[0]
    pairs = []
    for row in table.splitlines()[2:]:
        _, _, status, codes, when, _ = row.split("|")
        if status.strip() and "gRPC gives no code" not in when:
            found = re.findall(r"`(\w+)`", codes)
            pairs += [(grpc.StatusCode[status.strip(" `")], code) for code in found]
    return pairs


@pytest.mark.parametrize(("status", "code"), documented())
def test_an_item_and_a_call_end_in_the_same_error(status: grpc.StatusCode, code: str) -> None:
    item = of_item(pb.Error(code=code, message="because"))
    call = of_call(Ended(status, code), "127.0.0.1:8081")
    assert type(item) is type(call) is BY_CODE[code]
    assert item.code == call.code == code


def test_no_code_of_the_service_is_missing() -> None:
    raised = {kind.code: status for kind, status in STATUS.items() if kind not in REST_ONLY}
    raised[WRONG] = STATUS[errors.Unavailable]
    assert set(raised) <= set(BY_CODE)
    assert set(raised.items()) <= {(code, status) for status, code in documented()}
    assert set(BY_CODE) == {code for _, code in documented()}


def test_every_error_of_the_service_is_asked_after() -> None:
    kinds, known = [errors.GatewayError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        known.add(kind.code)
    assert known - {kind.code for kind in REST_ONLY} <= set(BY_CODE)


def test_a_code_of_a_later_service_is_an_error_all_the_same() -> None:
    error = of_item(pb.Error(code="new", message="because", param="text", retryable=True))
    assert type(error) is InvalidRequest
    assert error.retryable


def test_the_place_takes_the_services_word_for_it() -> None:
    for message in ("text: the text is empty", "the text is empty"):
        error = ClientError(message, param="text")
        error.locate("input[70]")
        assert (str(error), error.param) == ("input[70]: the text is empty", "input[70]")
