"""The protos of all that gRPC serves, for reflection.

`grpc_reflection` has no `grpc.reflection.v1`, whose messages are those of v1alpha on the wire.
"""

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from openclip_api.v1 import clip_pb2

REFLECTION = "grpc.reflection.v1.ServerReflection"


def _reflection_v1() -> bytes:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return bytes(text_format.Parse(text, type(file)()).SerializeToString())


POOL = DescriptorPool()
for _file in (clip_pb2, health_pb2, reflection_pb2):
    POOL.AddSerializedFile(_file.DESCRIPTOR.serialized_pb)
POOL.AddSerializedFile(_reflection_v1())
