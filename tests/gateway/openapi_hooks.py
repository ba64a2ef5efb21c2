"""What schemathesis cannot know: images, and what the model and the files of the service bound.

`SCHEMATHESIS_HOOKS` names this module.
"""

import re
from typing import Any

import schemathesis
from hypothesis import strategies

from gateway.rest.fields import RED_CIRCLE
from tests.conftest import SAMPLES

PNG = (SAMPLES / "red-circle.png").read_bytes()
EMBEDDING_SIZE = 64  # of the demo model
TIMEOUT = "x-request-timeout-ms"

schemathesis.openapi.format("binary", strategies.just(PNG))
for kind in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, strategies.just(PNG))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Give requests time, and make the valid ones such as this service can answer."""
    given = (case.headers or {}).get(TIMEOUT, "")
    if re.fullmatch("0*[1-9][0-9]{0,8}", str(given)):
        case.headers[TIMEOUT] = "60000"  # a shorter one gets a 504, rightly
    if isinstance(case.body, dict) and case.body.get("on_error") == "skip":
        case.body["on_error"] = "fail"  # skip answers a request whose items are all bad
    if case.meta is not None and case.meta.generation.mode.is_positive:
        for fields in (case.query, case.body):
            if isinstance(fields, dict):
                _bound(fields)


def _bound(fields: dict[str, Any]) -> None:
    for name in ("dimensions", "output_dimension"):
        if fields.get(name):
            fields[name] = 8 * (1 + int(fields[name]) % (EMBEDDING_SIZE // 8))  # as packed signs
    for name in ("max_tokens", "max_tokens_per_doc"):
        if fields.get(name):
            fields[name] = 4_096  # more than the model's context length
    for name in ("truncate", "truncation"):  # false and NONE make long text an error
        if name in fields:
            fields[name] = None
    if isinstance(fields.get("templates"), str):
        fields["templates"] = "photo"  # names of others are not known
    if fields.get("modality") == "image" and "input" in fields:
        fields["input"] = RED_CIRCLE  # every plain string would have to be an image
    if isinstance(fields.get("parameters"), dict):  # of TEI's similarity
        _bound(fields["parameters"])
    _put_images(fields)


def _put_images(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _put_images(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name in {"image", "bytes", "url"} and isinstance(each, str):
                value[name] = RED_CIRCLE
            elif name == "images" and each:
                value[name] = [RED_CIRCLE] * len(each)
            else:
                _put_images(each)
