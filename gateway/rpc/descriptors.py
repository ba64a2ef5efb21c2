"""The protos of all that gRPC serves, for reflection, and the messages of `Health.List`.

`grpc_health` and `grpc_reflection` are one version behind: the first has no `List` in its code for
this protobuf, the second no `grpc.reflection.v1`, whose messages are those of v1alpha on the wire.
"""

from google.protobuf import descriptor_pb2, message_factory, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from openclip_api.v1 import clip_pb2

REFLECTION = "grpc.reflection.v1.ServerReflection"

_HEALTH_LIST = """
message_type { name: "HealthListRequest" }
message_type {
  name: "HealthListResponse"
  field {
    name: "statuses" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: ".grpc.health.v1.HealthListResponse.StatusesEntry"
  }
  nested_type {
    name: "StatusesEntry"
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field {
      name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
      type_name: ".grpc.health.v1.HealthCheckResponse"
    }
    options { map_entry: true }
  }
}
"""
_LIST = """
name: "List"
input_type: ".grpc.health.v1.HealthListRequest" output_type: ".grpc.health.v1.HealthListResponse"
"""


def _health() -> descriptor_pb2.FileDescriptorProto:
    file = _file(health_pb2.DESCRIPTOR.serialized_pb)
    text_format.Merge(_HEALTH_LIST, file)
    text_format.Parse(_LIST, file.service[0].method.add())
    return file


def _reflection_v1() -> descriptor_pb2.FileDescriptorProto:
    text = text_format.MessageToString(_file(reflection_pb2.DESCRIPTOR.serialized_pb))
    return text_format.Parse(text.replace("v1alpha", "v1"), descriptor_pb2.FileDescriptorProto())


def _file(serialized: bytes) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(serialized)


POOL = DescriptorPool()
POOL.AddSerializedFile(clip_pb2.DESCRIPTOR.serialized_pb)
POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
for _added in (_reflection_v1(), _health()):
    POOL.AddSerializedFile(_added.SerializeToString())

HealthListRequest, HealthListResponse = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"grpc.health.v1.{name}"))
    for name in ("HealthListRequest", "HealthListResponse")
)
