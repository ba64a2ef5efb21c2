"""A `tensorrt` module without a GPU behind it, in the ways of TensorRT 10 and 11."""

from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class Level(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class Logger:
    Severity = Level

    def log(self, level: Level, text: str) -> None:
        raise AssertionError("TensorRT asks for a logger of the caller's own")


class Config:
    """Takes exactly the settings that a strongly typed build may have."""

    def __init__(self, fake: "FakeTensorRt") -> None:
        self.fake = fake

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.fake.seen[pool] = size

    def clear_flag(self, flag: str) -> None:
        self.fake.seen.setdefault("cleared", []).append(flag)

    def add_optimization_profile(self, profile: dict[str, Any]) -> int:
        self.fake.seen["profile"] = profile
        return 0

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == b"damaged" else {"content": content}

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return bool(cache["content"] != b"of another GPU")

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache["content"] + b"+1")


class Profile(dict[str, tuple[tuple[int, ...], ...]]):
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self[name] = shapes


class Builder:
    fake: "FakeTensorRt"

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        self.fake.seen["flags"] = flags
        pixels = SimpleNamespace(name="pixels", shape=(-1, 8, 8, 3))
        return SimpleNamespace(num_inputs=1, get_input=lambda _: pixels)

    def create_builder_config(self) -> Config:
        return Config(self.fake)

    def create_optimization_profile(self) -> Any:
        return Profile()

    def build_serialized_network(self, _: Any, config: Config) -> bytes | None:
        for level, text in self.fake.says:
            self.logger.log(level, text)
        return self.fake.plan


class FakeTensorRt(ModuleType):
    """What was asked of it is in `seen`."""

    def __init__(self, major: int = 10) -> None:
        super().__init__("tensorrt")
        self.__version__ = f"{major}.13.3.9.post1"
        self.seen: dict[str, Any] = {}
        self.says: list[tuple[Level, str]] = []
        self.plan: bytes | None = b"plan"
        self.ILogger = Logger
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.Builder: Any = type("Builder", (Builder,), {"fake": self})
        self.OnnxParser = lambda *_: SimpleNamespace(parse_from_file=lambda path: Path(path).name)
        if major == 10:  # where EXPLICIT_BATCH is 0
            self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
