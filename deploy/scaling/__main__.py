"""`python -m deploy.scaling`: what a load needs, and how that behaves."""

import argparse
import sys
from collections.abc import Sequence

from deploy.scaling.plan import Figures, Plan, plan
from deploy.scaling.simulation import Deployment, Outcome, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan and its simulation; 0."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        figures = Figures(
            core_rate=given.core_rate,
            gpu_rate=given.gpu_rate,
            cores=given.cores,
            batch=given.batch,
            call_s=given.call_ms / 1000,
            image_size=given.image_size,
            image_bytes=given.image_bytes,
        )
    except ValueError as error:
        parser.error(str(error))
    rate = given.images_per_minute / 60
    found = plan(rate, figures, given.utilisation, given.spare)
    gateways, gpus = given.gateways or found.gateways, given.gpus or found.gpus
    sys.stdout.write(_planned(rate, figures, found, given.utilisation))
    sys.stdout.write(
        "\n| gateways | GPUs | images/s | p50 ms | p95 ms | p99 ms | gateways busy | GPUs busy "
        "| images/execution | left waiting |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    cases = [(gateways, gpus)]
    if found.spare and not (given.gateways or given.gpus):  # and without what may be lost
        cases.append((gateways - found.spare, gpus - found.spare))
    for some_gateways, some_gpus in cases:
        deployment = Deployment(rate, some_gateways, some_gpus, calls=given.calls)
        outcome = simulate(deployment, figures, given.seconds, given.seed)
        sys.stdout.write(_row(deployment, outcome))
    return 0


def _planned(rate: float, figures: Figures, found: Plan, utilisation: float) -> str:
    cores = rate / (figures.core_rate * utilisation)
    gpus = rate / (figures.gpu_rate * utilisation)
    return (
        f"{rate:,.0f} images/s, at most {utilisation:.0%} busy:\n"
        f"  gateways: {rate:,.0f} / ({figures.core_rate:g} x {utilisation:g}) = {cores:,.1f} cores"
        f" / {figures.cores} = {cores / figures.cores:,.1f}, and {found.spare} spare:"
        f" {found.gateways}\n"
        f"  GPUs: {rate:,.0f} / ({figures.gpu_rate:g} x {utilisation:g}) = {gpus:,.1f},"
        f" and {found.spare} spare: {found.gpus}\n"
        f"  network: {found.in_gbit:.1f} Gbit/s into the gateways,"
        f" {found.out_gbit:.1f} Gbit/s on to the Tritons\n"
    )


def _row(deployment: Deployment, outcome: Outcome) -> str:
    p50, p95, p99 = (1000 * seconds for seconds in outcome.latency_s)
    return (
        f"| {deployment.gateways} | {deployment.gpus} | {outcome.rate:,.0f} | {p50:.0f} |"
        f" {p95:.0f} | {p99:.0f} | {outcome.gateway_busy:.0%} | {outcome.gpu_busy:.0%} |"
        f" {outcome.rows:.1f} | {outcome.waiting:,} |\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.scaling",
        description="How many gateways and GPUs a load of images needs, and a simulation of them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    # fmt: off
    add("--images-per-minute", type=float, default=1_000_000, metavar="N", help="the load")
    add("--core-rate", type=float, required=True, metavar="N",
        help="images/s that one gateway core decodes, resizes and sends on")
    add("--gpu-rate", type=float, required=True, metavar="N",
        help="images/s that one GPU encodes, in full batches")
    add("--utilisation", type=float, default=0.65, metavar="SHARE", help="how busy to plan for")
    add("--spare", type=int, default=1, metavar="N", help="gateways, and GPUs, that may be lost")
    add("--cores", type=int, default=8, metavar="N", help="cores of a gateway")
    add("--batch", type=int, default=64, metavar="N", help="most images in one execution")
    add("--call-ms", type=float, default=2.0, metavar="MS",
        help="part of an execution that does not grow with the batch")
    add("--calls", type=int, default=2, metavar="N", help="GATEWAY_TRITON_CALLS")
    add("--image-size", type=int, default=224, metavar="PIXELS", help="the model's")
    add("--image-bytes", type=int, default=100_000, metavar="N", help="of an image as it is sent")
    add("--gateways", type=int, metavar="N", help="simulate so many, whatever the plan says")
    add("--gpus", type=int, metavar="N", help="simulate so many, whatever the plan says")
    add("--seconds", type=float, default=5.0, metavar="N", help="simulated time")
    add("--seed", type=int, default=1, metavar="N", help="another one: other arrivals")
    # fmt: on
    return parser


if __name__ == "__main__":
    sys.exit(main())
