"""TensorRT's timing cache as a file, which makes every later build faster."""

from pathlib import Path
from types import ModuleType

from export.errors import brief
from export.tensorrt.build_log import Foreign, Report
from export.tensorrt.compatibility import flavour


class TimingCache:
    """Timings of earlier builds; of no use to TensorRT-RTX, which times when it runs."""

    def __init__(self, trt: ModuleType, config: Foreign, path: Path | None, say: Report) -> None:
        """Gives a builder configuration what the file holds."""
        self._config, self._say = config, say
        self._path = None if flavour(trt) == "tensorrt_rtx" else path
        if self._path is None:
            return
        old = self._path.read_bytes() if self._path.is_file() else b""
        cache = config.create_timing_cache(old)
        if cache is None or not config.set_timing_cache(cache, False):
            say(f"{path} is of another TensorRT or GPU, so all is timed anew", 0, 0)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """Writes what the file held, and what this build added."""
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(bytes(self._config.get_timing_cache().serialize()))
            part.replace(self._path)
        except OSError as error:  # the plan took minutes to build, and is good without it
            self._say(f"the timing cache cannot be kept: {brief(error)}", 0, 0)
