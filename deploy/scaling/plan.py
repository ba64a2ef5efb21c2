"""The arithmetic: how many gateways and GPUs carry a load, and what the network must carry."""

import math
from dataclasses import dataclass

CHANNELS = 3  # bytes of a pixel on its way to Triton


@dataclass(frozen=True, slots=True)
class Figures:
    """What one core and one GPU do, and how they are put together.

    Attributes:
        core_rate: Images that one gateway core decodes, resizes and sends on in a second.
        gpu_rate: Images that one GPU encodes in a second, in full batches.
        cores: Of one gateway.
        batch: Most images in one execution.
        call_s: Seconds of an execution that do not grow with the batch.
        image_size: Side of what is sent to Triton, in pixels.
        image_bytes: Of an image as clients send it, in the mean.
    """

    core_rate: float
    gpu_rate: float
    cores: int = 8
    batch: int = 64
    call_s: float = 0.002
    image_size: int = 224
    image_bytes: int = 100_000

    def __post_init__(self) -> None:
        """Refuses figures that contradict each other.

        Raises:
            ValueError: The fixed part of an execution alone takes longer than it may.
        """
        if self.batch / self.gpu_rate <= self.call_s:
            raise ValueError(
                f"{self.batch} images at {self.gpu_rate:g}/s take {self.batch / self.gpu_rate:g} s,"
                f" no more than the fixed part of {self.call_s:g} s: lower that, or the rate"
            )

    @property
    def image_s(self) -> float:
        """Seconds that each image adds to an execution."""
        return 1 / self.gpu_rate - self.call_s / self.batch

    def execution_s(self, rows: int) -> float:
        """Seconds that an execution takes."""
        return self.call_s + rows * self.image_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What carries a load.

    Attributes:
        gateways: Of `Figures.cores` each.
        gpus: Each with a Triton of its own.
        spare: Of either kind, beyond what the load needs: so many may be lost.
        in_gbit: From clients to the gateways, in Gbit/s.
        out_gbit: From the gateways to the Tritons, in Gbit/s.
    """

    gateways: int
    gpus: int
    spare: int
    in_gbit: float
    out_gbit: float


def plan(rate: float, figures: Figures, utilisation: float = 0.65, spare: int = 1) -> Plan:
    """How many of each carry `rate` images a second, no busier than `utilisation` (0 to 1)."""
    cores = rate / (figures.core_rate * utilisation)
    gpus = rate / (figures.gpu_rate * utilisation)
    sent = figures.image_size**2 * CHANNELS
    return Plan(
        gateways=math.ceil(cores / figures.cores) + spare,
        gpus=math.ceil(gpus) + spare,
        spare=spare,
        in_gbit=rate * figures.image_bytes * 8 / 1e9,
        out_gbit=rate * sent * 8 / 1e9,
    )
