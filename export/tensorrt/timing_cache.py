"""Keeps TensorRT's timing cache in a file, which makes later builds faster."""

from pathlib import Path
from types import ModuleType

from export.errors import brief
from export.tensorrt.build_log import Foreign, Report
from export.tensorrt.compatibility import flavour


class TimingCache:
    """Timings of earlier builds; unused by TensorRT-RTX, which times at run time."""

    def __init__(self, trt: ModuleType, config: Foreign, path: Path | None, say: Report) -> None:
        """Load the file into a builder configuration."""
        self._config, self._say = config, say
        self._path = None if flavour(trt) == "tensorrt_rtx" else path
        if self._path is None:
            return
        old = self._path.read_bytes() if self._path.is_file() else b""
        cache = config.create_timing_cache(old)
        if cache is None or not config.set_timing_cache(cache, False):
            say(f"{path} is of another TensorRT or GPU; all is timed anew", 0, 0)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """Write the timings, including those of this build."""
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(bytes(self._config.get_timing_cache().serialize()))
            part.replace(self._path)
        except OSError as error:  # the plan is valid without it
            self._say(f"the timing cache cannot be kept: {brief(error)}", 0, 0)
