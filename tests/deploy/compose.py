"""`make test-compose`: builds the images, serves with them, kills Triton, and cleans up.

It needs a Docker engine and Compose, 1.29 or 2; without them it says so and ends with 0. Variables
are those of `.env.example` and of the environment: an `.env` of this machine counts for nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import httpx

from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from tests.conftest import ROOT, free_port
from tests.items import RED_CIRCLE, sample

LABEL_SET = "shapes"
RIGHT = "red circle"
GATEWAY_MB = 400  # as `docker images` counts: 10^6 bytes
READY_S = 300.0
# Every process of the container but the one that asks: what a crash, or the kernel's killer, does.
KILL_ALL = "import os, signal; os.kill(-1, signal.SIGKILL)"


LOAD = """
import grpc
from pathlib import Path
from tritonclient.grpc import service_pb2, service_pb2_grpc
from gateway.inference.secret import Secret
stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel("triton:8001"))
asked = service_pb2.RepositoryModelLoadRequest(model_name="demo.text")
stub.RepositoryModelLoad(asked, timeout=60, metadata=Secret(Path("/secret/triton")).read())
try:
    stub.RepositoryModelLoad(asked, timeout=60)
except grpc.RpcError as error:
    assert "restricted" in error.details(), error
else:
    raise AssertionError("Triton loads models for who has no secret")
"""


class Failed(Exception):
    """Something was not as it must be."""


@dataclass(frozen=True, slots=True)
class Project:
    """One run of the compose file, under a name and on ports of its own."""

    compose: Sequence[str]
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)

    def run(self, *arguments: str, timeout: float = 1800) -> str:
        """Run Compose; what it wrote to stdout."""
        name = f"openclip-test-{os.getpid()}"
        files = (
            "--file", str(ROOT / "docker-compose.yml"), "--env-file", str(ROOT / ".env.example"),
        )  # fmt: skip
        ports = {"HTTP_PORT": str(self.http_port), "GRPC_PORT": str(self.grpc_port)}
        return run(
            [*self.compose, "--project-name", name, *files, *arguments],
            env=os.environ | ports,
            timeout=timeout,
        )

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.run("ps", "--quiet", service).strip()


def main() -> int:
    """0 where everything was right or nothing can be tried, 1 where something was not."""
    compose = find_compose()
    if compose is None:
        return 0
    project = Project(compose)
    try:
        exercise(project)
    except (Failed, subprocess.SubprocessError, httpx.HTTPError, grpc.RpcError) as error:
        say(f"FAILED: {error}")
        say(project.run("logs", "--tail=50"))
        return 1
    finally:
        project.run("down", "--volumes", "--remove-orphans", "--timeout", "40")
        say("taken down")
    say("passed")
    return 0


def find_compose() -> Sequence[str] | None:
    """The command of Compose; None, with the reason said, where there is no way to run it."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        say("SKIPPED: no Docker engine answers here (`docker info`)")
        return None
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        return (docker, "compose")
    classic = shutil.which("docker-compose")
    if classic is None:
        say("SKIPPED: no Compose here (`docker compose` or `docker-compose`)")
    return None if classic is None else (classic,)


def exercise(project: Project) -> None:
    """Everything that is tried, in order."""
    project.run("build")
    check_images(project)
    start = time.monotonic()
    project.run("up", "--detach", "--no-build")
    wait_until(lambda: is_ready(project), "the gateway is ready")
    say(f"ready, {time.monotonic() - start:.1f} s after the start")
    check_hardening(project)
    check_secret(project)
    classify_rest(project)
    classify_grpc(project)
    kill_triton(project)
    check_secret(project)
    classify_rest(project)
    classify_grpc(project)


def check_images(project: Project) -> None:
    """Says what the images weigh, and holds the gateway's to its limit."""
    for service, target in (("gateway", "gateway"), ("triton", "triton-cpu")):
        prefix, tag = os.environ.get("IMAGE_PREFIX"), os.environ.get("IMAGE_TAG")
        image = f"{prefix or 'openclip-triton'}/{target}:{tag or 'dev'}"
        size = int(run(["docker", "image", "inspect", "--format", "{{.Size}}", image])) / 1e6
        say(f"image {image}: {size:.0f} MB")
        if service == "gateway" and size >= GATEWAY_MB:
            raise Failed(f"{image} has {size:.0f} MB, and should have less than {GATEWAY_MB}")


def check_hardening(project: Project) -> None:
    """No container is root's, can write its own root file system, or has a capability."""
    for service in ("gateway", "triton"):
        container = project.container(service)
        (found,) = json.loads(run(["docker", "inspect", container]))
        host = found["HostConfig"]
        if found["Config"]["User"] in ("", "root", "0") or not host["ReadonlyRootfs"]:
            raise Failed(f"{service} runs as root, or can write its root file system")
        if host["CapDrop"] != ["ALL"] or host["CapAdd"]:
            raise Failed(f"{service} has capabilities")


def check_secret(project: Project) -> None:
    """The gateway can have Triton load a model, and who has no secret cannot."""
    project.run("exec", "-T", "gateway", "python", "-c", LOAD)
    say("the gateway has Triton's secret")


def classify_rest(project: Project) -> None:
    """The sample is what it is, over REST."""
    answer = httpx.post(
        f"http://127.0.0.1:{project.http_port}/v1/zero-shot",
        json={"image": sample("red-circle.png"), "label_set": LABEL_SET},
        timeout=60,
    ).raise_for_status()
    check_label("REST", answer.json()["results"][0]["predictions"][0]["label"])


def classify_grpc(project: Project) -> None:
    """The sample is what it is, over gRPC."""
    request = clip_pb2.ClassifyRequest(
        images=[clip_pb2.Item(image=RED_CIRCLE)], label_set=LABEL_SET
    )
    with grpc.insecure_channel(f"127.0.0.1:{project.grpc_port}") as channel:
        answer = clip_pb2_grpc.ClipServiceStub(channel).Classify(
            request, timeout=60, wait_for_ready=True
        )
    check_label("gRPC", answer.results[0].predictions[0].label)


def check_label(protocol: str, label: str) -> None:
    """Whether the best label is the right one."""
    if label != RIGHT:
        raise Failed(f"{protocol}: the sample is a {RIGHT}, and was called {label!r}")
    say(f"{protocol}: {label}")


def kill_triton(project: Project) -> None:
    """Triton's processes are killed; the service must know, and Docker must start it again."""
    container = project.container("triton")
    before = restarts(container)
    start = time.monotonic()
    # The command kills whatever waits for it as well, so its own exit code says nothing.
    subprocess.run(["docker", "exec", container, "python", "-c", KILL_ALL], check=False)
    say("killed Triton")
    wait_until(lambda: not is_ready(project), "the gateway says that it is not ready")
    wait_until(lambda: restarts(container) > before, "Docker starts Triton again")
    wait_until(lambda: is_ready(project), "the gateway is ready again")
    say(f"ready again, {time.monotonic() - start:.1f} s after that")


def restarts(container: str) -> int:
    """How often Docker has started a container again."""
    return int(run(["docker", "inspect", "--format", "{{.RestartCount}}", container]))


def is_ready(project: Project) -> bool:
    """Whether the gateway says that it can serve."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{project.http_port}/readyz", timeout=10)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until it is so.

    Raises:
        Failed: It is not in time.
    """
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"it did not come about in {READY_S:.0f} s that {what}")
        time.sleep(0.2)


def run(command: Sequence[str], *, env: dict[str, str] | None = None, timeout: float = 120) -> str:
    """Run a command that must succeed; what it wrote to stdout."""
    done = subprocess.run(command, env=env, timeout=timeout, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}")
    return done.stdout


def say(line: str) -> None:
    """Tell whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
