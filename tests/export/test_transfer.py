"""Models travel: push and pull through a folder, a web server, an S3 server and a hub."""

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.__main__ import main
from export.errors import RepositoryError, TransferError
from export.publish.leftovers import manifest_text
from export.report.card import HUB_HEADER
from export.storage.place import place_at
from export.tensorrt import compatibility
from export.tensorrt.compatibility import PlanPlatform, write_platform
from export.tensorrt.errors import WrongEngineError
from export.transfer import index
from export.transfer import plans as plans_here
from export.transfer.pull import pull
from export.transfer.push import push
from export.versions import main as versions
from gateway.models.manifest import Manifest, file_sha256, read_repository
from tests.conftest import REPOSITORY, ROOT, free_port, killed_after
from tests.export import hub
from tests.export.killing import steps
from tests.export.serving import serving
from tests.gateway.waiting import wait_until
from tests.items import vectors

LIMIT_S = 300.0  # for one command on a busy machine
MOMENTS = 10
# Runs command lines in one process, without what only an export has.
COMMANDS = """
import contextlib, io, json, sys
for each in ("torch", "open_clip", "onnx", "rich", "matplotlib"):
    sys.modules[each] = None
from export.__main__ import main
results = []
for line in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        results.append([main(line), ""])
    results[-1][1] = said.getvalue()
print(json.dumps(results))
"""


def ignore(line: str) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the demo."""
    folder = tmp_path / "place"
    push(REPOSITORY, "demo", str(folder), ignore)
    return folder


@pytest.fixture
def newer(tmp_path: Path, place: Path) -> Path:
    """A folder with a newer demo."""
    folder = Path(shutil.copytree(place, tmp_path / "newer"))
    change(folder, lambda made: made["manifest"].update(created=1))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@contextmanager
def started(
    *lines: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs these command lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS, json.dumps(lines)],
        cwd=ROOT, env={**os.environ, **(env or {})}, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process, killed_after(LIMIT_S, process):
        yield process


def run(*lines: Sequence[str], env: Mapping[str, str] | None = None) -> list[tuple[int, str]]:
    """Exit code of each command line, and what it printed."""
    with started(*lines, env=env) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    return [(code, said) for code, said in json.loads(out)]


def assert_whole(root: Path) -> Manifest:
    """The published demo has its files."""
    manifest = read_repository(root)["demo"]
    assert {name: file_sha256(root / name) for name in manifest.files} == manifest.files
    return manifest


def assert_demo(root: Path, version: int = 1) -> None:
    """The demo is published whole, and nothing else is there."""
    demo = read_repository(REPOSITORY)["demo"]
    assert assert_whole(root) == index.renumbered(demo, version)
    assert not list(root.glob(".staging-*"))
    assert {path.name for path in root.glob("*/[0-9]*")} == {str(version)}
    for encoder in ("demo.image", "demo.text"):
        config = f"{encoder}/config.pbtxt"
        assert (root / config).read_text() == (REPOSITORY / config).read_text()


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def change(place: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the index of a place."""
    file = place / index.NAME
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_through_a_folder_without_pytorch(place: Path, root: Path) -> None:
    shutil.rmtree(place)
    pulls = ["pull", str(place), "--repository", str(root)]
    results = run(["push", "demo", str(place)], pulls, pulls)
    assert [code for code, _ in results] == [0, 0, 0]
    assert "pushed demo" in results[0][1]
    assert "pulled demo version 1" in results[1][1]
    assert results[2][1].startswith("there already: demo version 1")
    assert_demo(root)
    assert "# demo" in (place / "README.md").read_text()


def test_through_a_web_server(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hub.serving(hub.WebHandler) as (url, files):
        assert main(["push", "demo", f"{url}/a/demo/"]) == 0
        puts = [each for each in files.asked if each.startswith("PUT")]
        assert puts[-1] == f"PUT /a/demo/{index.NAME}"
        assert main(["pull", f"{url}/a/demo", "--repository", str(root)]) == 0
        assert_demo(root)
        files.asked.clear()
        assert main(["push", "demo", f"{url}/a/demo"]) == 0
        again = [each for each in files.asked if each.startswith("PUT")]
        assert again == [f"PUT /a/demo/{index.NAME}"]
        capsys.readouterr()
        address = url.replace("//", "//me:secret@")
        assert main(["push", "demo", f"{address}/read-only"]) == 1
        err = capsys.readouterr().err
        assert "HTTP 403" in err
        assert "secret" not in err


def test_through_an_s3_server(root: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": url}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: answers(url), within=LIMIT_S)
        assert httpx.put(f"{url}/models", timeout=60).status_code == httpx.codes.OK
        pulls = ["pull", "s3://models/demo", "--repository", str(root)]
        pushes = [["push", "demo", f"s3://{bucket}/demo"] for bucket in ("none", "models")]
        missing, *done = run(*pushes, pulls, env=keys)
    finally:
        server.kill()
        server.wait()
    assert missing[0] == 1
    assert "The specified bucket does not exist" in missing[1]
    assert [code for code, _ in done] == [0, 0], done
    assert_demo(root)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_through_the_hub(tmp_path: Path, root: Path) -> None:
    with hub.serving(hub.HubHandler) as (url, files):
        hub_of = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_x"}
        pulls = [
            ["pull", f"hf://org/name/{name}", "--repository", str(root)] for name in ("x", "demo")
        ]
        pushes = ["push", "demo", "hf://org/name/demo"]
        pushed, missing, pulled, again = run(pushes, *pulls, pushes, env=hub_of)
    assert [pushed[0], pulled[0], again[0]] == [0, 0, 0], (pushed, pulled, again)
    assert files.asked[-2:] == [f"commit demo/{index.NAME}"] * 2
    assert missing[0] == 1
    assert f"hf://org/name/x: {index.NAME} is not there" in missing[1]
    assert_demo(root)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gs://bucket/demo", "gs://bucket/demo: Please install gcsfs"),
        ("abc://bucket/demo", "Protocol not known: abc"),
        ("http://[::x/", "Invalid port"),
        ("nowhere", f"nowhere: {index.NAME} is not there"),
        ("https://me:secret@127.0.0.1:1/a", f"https://127.0.0.1:1/a: {index.NAME}: "),
    ],
)
def test_what_cannot_be_opened_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], source: str, said: str
) -> None:
    assert main(["pull", source, "--repository", str(root)]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert said in err
    assert "secret" not in err
    assert err.count("\n") == 1
    assert not out
    assert not root.exists()


def test_a_new_version_takes_the_next_number_or_keeps_the_previous(
    root: Path, place: Path, newer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pull(root, str(place), None, ignore)
    manifest, new = pull(root, str(newer), None, ignore)
    assert (manifest.version, new) == (2, True)
    assert {path.name for path in root.glob("*/[0-9]*")} == {"2"}
    assert_whole(root)
    assert main(["pull", str(place), "--version", "7", "--repository", str(root)]) == 0
    assert versions(["demo", "--use", "2", "--repository", str(root)]) == 0
    assert "demo version 2 served" in capsys.readouterr().out
    with pytest.raises(RepositoryError, match="there is a version 7 already"):
        pull(root, str(place), 7, ignore)


def test_a_content_that_encoders_share_travels_once(tmp_path: Path, root: Path) -> None:
    shared = Path(shutil.copytree(REPOSITORY, tmp_path / "shared"))
    text = shared / "demo.text" / "1" / "model.onnx"
    shutil.copy(shared / "demo.image" / "1" / "model.onnx", text)
    publish_anew(shared)
    said: list[str] = []
    made = push(shared, "demo", str(tmp_path / "place"), ignore)
    assert len({file.sha256 for file in made.files.values()}) == len(made.files) - 1
    pull(root, str(tmp_path / "place"), None, said.append)
    assert len(said) == len(made.files) - 1
    assert assert_whole(root) == assert_whole(shared)


def publish_anew(root: Path, **values: object) -> None:
    """Write these values and the hashes of the files into the demo's manifest."""
    file = root / "demo.manifest.json"
    made = json.loads(file.read_text()) | values
    found = [*root.glob("*/1/*"), root / "demo.1.tokenizer.json", root / "demo.1.card.md"]
    made["files"] = {str(each.relative_to(root)): file_sha256(each) for each in found}
    file.write_text(manifest_text(Manifest.model_validate(made)))


def test_killed_at_random_moments_a_pull_leaves_whole_models(
    root: Path, place: Path, newer: Path
) -> None:
    sources = [str(place), str(newer)]
    start = time.monotonic()
    run(["pull", sources[0], "--repository", str(root)])
    took = time.monotonic() - start
    seeded = random.Random(18)
    for moment in range(MOMENTS):
        with started(["pull", sources[1 - moment % 2], "--repository", str(root)]) as process:
            time.sleep(seeded.uniform(0.3, 1.1) * took)
            process.kill()
        assert_whole(root)
    run(["pull", sources[0], "--repository", str(root)])
    assert_demo(root, read_repository(root)["demo"].version)


def test_killed_at_random_moments_a_push_leaves_a_whole_place_or_none(
    tmp_path: Path, root: Path
) -> None:
    place = tmp_path / "place"
    start = time.monotonic()
    run(["push", "demo", str(place)])
    took = time.monotonic() - start
    shutil.rmtree(place)
    seeded = random.Random(18)
    for moment in range(MOMENTS):
        with started(["push", "demo", str(place)]) as process:
            time.sleep(seeded.uniform(0.3, 1.1) * took)
            process.kill()
        if (place / index.NAME).exists():
            pull(root, str(place), None, ignore)
            assert_demo(root)
            shutil.rmtree(root)
            if moment % 2:
                shutil.rmtree(place)
    run(["push", "demo", str(place)])
    pull(root, str(place), None, ignore)
    assert_demo(root)
    assert not list(place.rglob("*.part"))


@pytest.fixture
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("_without_waiting_for_the_disk")
def test_killed_at_each_step_of_publishing(
    root: Path, place: Path, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        pull(root, str(place), None, ignore)
        if not steps(lambda: pull(root, str(newer), None, ignore), monkeypatch, step):
            break
        assert_whole(root)
        manifest, _ = pull(root, str(newer), None, ignore)
        assert manifest == assert_whole(root)
        assert manifest.created == 1
        assert {path.name for path in root.glob("*/[0-9]*")} == {str(manifest.version)}
        assert not list(root.glob(".staging-*"))
        step += 1
    assert step > 5


@pytest.mark.parametrize("path", ["demo.text/1/model.onnx", "demo.1.tokenizer.json"])
def test_a_flipped_byte_is_refused_and_named(root: Path, place: Path, path: str) -> None:
    manifest = read_repository(REPOSITORY)["demo"]
    file = place / "files" / manifest.files[path]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TransferError, match=f"{path} .*{file.name}.* does not match"):
        pull(root, str(place), None, ignore)
    assert not [each for each in root.iterdir() if each.name != ".export.lock"]
    file.unlink()
    push(REPOSITORY, "demo", str(place), ignore)
    pull(root, str(place), None, ignore)
    assert_demo(root)


def test_a_file_that_is_cut_short_is_refused(root: Path, place: Path) -> None:
    file = place / "files" / read_repository(REPOSITORY)["demo"].files["demo.text/1/model.onnx"]
    os.truncate(file, 1000)
    with pytest.raises(TransferError, match="does not match"):
        pull(root, str(place), None, ignore)
    push(REPOSITORY, "demo", str(place), ignore)  # what a push left incomplete is written anew
    pull(root, str(place), None, ignore)
    assert_demo(root)


def test_content_without_an_end_is_refused(root: Path) -> None:
    with hub.serving(hub.WebHandler) as (url, files):
        made = push(REPOSITORY, "demo", f"{url}/demo", ignore)
        files.endless.add(f"/demo/{made.files['demo.image/1/model.onnx'].name}")
        with pytest.raises(TransferError, match=r"model.onnx .* larger than the \d+ bytes"):
            pull(root, f"{url}/demo", None, ignore)
        files.endless.add(f"/demo/{index.NAME}")
        with pytest.raises(TransferError, match=f"{index.NAME}: is larger than"):
            pull(root, f"{url}/demo", None, ignore)
    assert not [each for each in root.iterdir() if each.name != ".export.lock"]


ANY = {"size": 1, "sha256": "0" * 64}
TOKENIZER, CARD = "demo.1.tokenizer.json", "demo.1.card.md"


def named(content: dict[str, Any], path: str) -> None:
    """Name the tokenizer's file in another way, consistently."""
    content["files"][path] = content["files"].pop(TOKENIZER)
    content["manifest"]["files"][path] = content["manifest"]["files"].pop(TOKENIZER)
    content["manifest"]["tokenizer"]["file"] = path


def renamed(content: dict[str, Any], name: str) -> None:
    """Name the image encoder in another way, consistently."""
    content["manifest"]["triton"]["image"]["name"] = name
    for files in (content["files"], content["manifest"]["files"]):
        for path in [each for each in files if each.startswith("demo.image/")]:
            files[path.replace("demo.image", name)] = files.pop(path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda made: made["files"].update({"../evil": ANY}), "'../evil' is no file of"),
        (lambda made: made["files"].update({"/etc/evil": ANY}), "'/etc/evil' is no file of"),
        (lambda made: made["files"].update({"demo.image/1/../../evil": ANY}), "is no file of"),
        (lambda made: made["files"].update({"demo.image/1/model.py": ANY}), "is no file of"),
        (lambda made: made["files"].update({"demo.image/2/model.onnx": ANY}), "is no file of"),
        (lambda made: made["files"].pop("demo.image/config.pbtxt"), "is missing"),
        (lambda made: made["files"].pop("demo.image/1/model.onnx"), "differ from those"),
        (lambda made: made["files"][TOKENIZER].update(sha256="0" * 64), "differ from those"),
        (lambda made: made["files"][TOKENIZER].update(size=-1), "files.demo.1.tokenizer.json.size"),
        (lambda made: made["files"][TOKENIZER].update(sha256="../../x"), "sha256"),
        (lambda made: named(made, "other.manifest.json"), "must be named for the model"),
        (lambda made: renamed(made, "../demo.image"), "encoders must be named for the model"),
        (lambda made: renamed(made, "other.image"), "encoders must be named for the model"),
        (lambda made: made["manifest"].update(card="other.1.card.md"), "manifest.card: must be"),
        (lambda made: made["manifest"].update(card="../x"), "manifest.card"),
        (lambda made: made["files"][CARD].update(size=2**19), "the card has more than"),
        (lambda made: made["manifest"].update(id="../x"), "manifest.id"),
        (lambda made: made["manifest"].update(id="other"), "must be named for the model"),
        (lambda made: made["manifest"].update(logit_scale=math.inf), "a finite number"),
        (lambda made: made["manifest"]["gate"]["image"].update(min_cosine=math.nan), "finite"),
        (lambda made: made["manifest"].update(created=10**40), "manifest.created"),
        (lambda made: made["manifest"]["tokenizer"].update(context_length=10**9), "context_length"),
        (lambda made: made["manifest"]["tokenizer"].update(pad_id=2**31), "tokenizer.pad_id"),
        (lambda made: made["files"][TOKENIZER].update(size=10**4000), "less than"),
        (lambda made: made.update(schema_version=2), "schema_version: Input should be 1"),
        (lambda made: made["manifest"].update(schema_version=2), "manifest.schema_version"),
        (lambda made: made.update(more=1), "more: Extra inputs"),
    ],
)
def test_a_hostile_index_is_refused(
    tmp_path: Path, root: Path, place: Path, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    change(place, edit)
    before = snapshot(tmp_path)
    with pytest.raises(TransferError) as refused:
        pull(root, str(place), None, ignore)
    assert said in str(refused.value)
    assert snapshot(tmp_path) == before
    assert not root.exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda path: path.write_text("{}"), "not a tokenizer"),
        (lambda path: None, "tokenizer.split_pattern: missing )"),
    ],
)
def test_a_tokenizer_that_stops_a_gateway_is_refused(
    tmp_path: Path, root: Path, edit: Callable[[Path], None], said: str
) -> None:
    hostile = Path(shutil.copytree(REPOSITORY, tmp_path / "hostile"))
    edit(hostile / TOKENIZER)
    spec = json.loads((hostile / "demo.manifest.json").read_text())["tokenizer"]
    spec |= {"sha256": file_sha256(hostile / TOKENIZER), "split_pattern": "("}
    publish_anew(hostile, tokenizer=spec)
    push(hostile, "demo", str(tmp_path / "place"), ignore)
    with pytest.raises(TransferError, match=re.escape(said)):
        pull(root, str(tmp_path / "place"), None, ignore)
    assert not [each for each in root.iterdir() if each.name != ".export.lock"]


@pytest.mark.parametrize("name", [index.NAME, "files"])
def test_a_pipe_is_not_waited_for(root: Path, place: Path, name: str) -> None:
    path = place / name
    if path.is_dir():
        path /= read_repository(REPOSITORY)["demo"].files[TOKENIZER]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TransferError, match="is not a file"):
        pull(root, str(place), None, ignore)


def test_a_folder_that_may_not_be_read_is_an_error_of_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(TransferError, match=r"x: .*Permission denied"):
        place_at(str(tmp_path)).size("x")


def test_a_place_is_named_without_its_password() -> None:
    assert str(place_at("memory://user:pa@ss@host/models")) == "memory://user@host/models"
    assert str(place_at("memory://models/a:b@c")) == "memory://models/a:b@c"


def test_an_index_of_more_than_the_disk_holds_is_refused(root: Path, place: Path) -> None:
    change(place, lambda made: made["files"][TOKENIZER].update(size=10**18))
    with pytest.raises(TransferError, match=r"takes 10000000000.. MB, but .* MB left"):
        pull(root, str(place), None, ignore)


def test_what_is_not_json_is_refused(root: Path, place: Path) -> None:
    (place / index.NAME).write_bytes(b"\xff<html>")
    with pytest.raises(TransferError, match=index.NAME):
        pull(root, str(place), None, ignore)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name:", f"#{'x' * index.MAX_BYTES}\nname:"),
        ('backend: "onnxruntime"', 'backend: "python"'),
        ('backend: "onnxruntime"', 'backend: "onnxruntime" platform: "ensemble"'),
        ('name: "demo.image"', 'name: "demo.text"'),
        ('name: "demo.image"', 'model_operations {} name: "demo.image"'),
        ('name: "demo.image"', "}"),
        # A library, and a packed environment of Python, in a file that an export writes.
        ('name: "demo.image"', 'name: "demo.image" runtime: "model.onnx.data"'),
        ("enable_mem_pattern", "EXECUTION_ENV_PATH"),
        ('name: "demo.image"', 'name: "demo.image" model_repository_agents {}'),
        ('name: "demo.image"', 'name: "demo.image" optimization { execution_accelerators {} }'),
        ('name: "demo.image"', 'name: "demo.image" default_model_filename: "../1/model.onnx"'),
    ],
)
def test_a_config_that_would_run_something_else_is_refused(
    tmp_path: Path, root: Path, old: str, new: str
) -> None:
    hostile = Path(shutil.copytree(REPOSITORY, tmp_path / "hostile"))
    config = hostile / "demo.image" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    push(hostile, "demo", str(tmp_path / "place"), ignore)
    with pytest.raises(TransferError, match=r"demo.image/config.pbtxt: does not run demo.image"):
        pull(root, str(tmp_path / "place"), None, ignore)
    assert not [each for each in root.iterdir() if each.name != ".export.lock"]


HERE = PlanPlatform("tensorrt", "10.13.3.9", "8.9", "NVIDIA L4")


@pytest.mark.parametrize(
    "built",
    [
        HERE,
        PlanPlatform("tensorrt", "10.13.3.9", "9.0", "NVIDIA H200"),
        PlanPlatform("tensorrt", "11.4.0.106", "8.9", "NVIDIA L4"),
    ],
)
def test_a_plan_is_pulled_only_where_it_runs(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, built: PlanPlatform
) -> None:
    plans = Path(shutil.copytree(REPOSITORY, tmp_path / "plans"))
    for encoder in ("demo.image", "demo.text"):
        plan = (plans / encoder / "1" / "model.onnx").rename(plans / encoder / "1" / "model.plan")
        write_platform(plan, built)
        config = plans / encoder / "config.pbtxt"
        config.write_text(config.read_text().replace('"onnxruntime"', '"tensorrt"'))
    publish_anew(plans, runtime="tensorrt")
    push(plans, "demo", str(tmp_path / "place"), ignore)
    monkeypatch.setattr(plans_here, "platforms_here", lambda: (HERE,))
    said: list[str] = []
    if built == HERE:
        assert pull(root, str(tmp_path / "place"), None, said.append)[1]
        assert compatibility.check_repository(root, [HERE]) == []
        return
    with pytest.raises(WrongEngineError) as refused:
        pull(root, str(tmp_path / "place"), None, said.append)
    for name in ("model.plan", str(built), str(HERE), "no graphs", "export the model again"):
        assert name in str(refused.value)
    assert not [line for line in said if line.startswith("demo.image/1/model.plan:")]
    assert not list(root.glob("*.manifest.json"))


def test_a_place_is_for_one_model(tmp_path: Path, place: Path) -> None:
    other = Path(shutil.copytree(REPOSITORY, tmp_path / "other"))
    for path in sorted(other.rglob("demo*"), reverse=True):
        path.rename(path.with_name(path.name.replace("demo", "other")))
    file = other / "other.manifest.json"
    file.write_text(file.read_text().replace('"demo', '"other'))
    with pytest.raises(TransferError, match="holds the model 'demo'"):
        push(other, "other", str(place), ignore)


def test_only_what_is_published_and_whole_is_pushed(tmp_path: Path) -> None:
    damaged, place = Path(shutil.copytree(REPOSITORY, tmp_path / "damaged")), tmp_path / "place"
    with pytest.raises(RepositoryError, match="no model 'x' is published"):
        push(damaged, "x", str(place), ignore)
    with (damaged / "demo.text" / "1" / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    with pytest.raises(RepositoryError, match=r"model.onnx: differs from its manifest"):
        push(damaged, "demo", str(place), ignore)
    (damaged / "demo.text" / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"model.onnx: No such file"):
        push(damaged, "demo", str(place), ignore)
    assert not place.exists()


def test_what_no_export_writes_is_not_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, place = Path(shutil.copytree(REPOSITORY, tmp_path / "odd")), tmp_path / "place"
    (odd / "demo.text" / "1" / "notes.txt").write_text("x")
    publish_anew(odd)
    assert main(["push", "demo", str(place), "--repository", str(odd)]) == 1
    assert "'demo.text/1/notes.txt' is no file of such a model" in capsys.readouterr().err
    assert not place.exists()


def test_the_card_is_the_readme_and_travels(place: Path, newer: Path, root: Path) -> None:
    card = (REPOSITORY / "demo.1.card.md").read_text()
    assert (place / "README.md").read_text() == HUB_HEADER + card
    manifest, _ = pull(root, str(place), 7, ignore)
    assert manifest.card == "demo.7.card.md"
    assert (root / manifest.card).read_text() == card
    pull(root, str(newer), None, ignore)
    assert [path.name for path in root.glob("*.card.md")] == ["demo.8.card.md"]


def test_a_model_without_a_card_has_one_in_its_readme(tmp_path: Path) -> None:
    older = Path(shutil.copytree(REPOSITORY, tmp_path / "older"))
    file, old = older / "demo.manifest.json", read_repository(older)["demo"]
    files = {name: sha for name, sha in old.files.items() if name != old.card}
    file.write_text(manifest_text(old.model_copy(update={"card": None, "files": files})))
    push(older, "demo", str(tmp_path / "place"), ignore)
    assert "not known" in (tmp_path / "place" / "README.md").read_text()
    manifest, _ = pull(tmp_path / "models", str(tmp_path / "place"), None, ignore)
    assert manifest.card is None
    assert not list((tmp_path / "models").glob("*.card.md"))


def test_a_card_that_somebody_wrote_stays(place: Path) -> None:
    (place / "README.md").write_text("ours")
    push(REPOSITORY, "demo", str(place), ignore)
    assert (place / "README.md").read_text() == "ours"


@pytest.mark.parametrize("wrong", [["push", "demo"], ["pull"], ["pull", "x", "--version", "0"]])
def test_wrong_usage_ends_with_1(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 1


def test_make_run_pulls_first() -> None:
    shown = subprocess.run(
        ["make", "-n", "run", "MODELS=hf://org/a,s3://bucket/b"],
        cwd=ROOT, capture_output=True, check=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    pulled = shown.index('-m export pull --repository "model_repository"')
    assert '"hf://org/a" "s3://bucket/b"' in shown[pulled : shown.index("-m deploy.stack")]


def test_a_pulled_model_is_served_with_its_golden_vectors_right(
    root: Path, place: Path, api: httpx.Client
) -> None:
    pull(root, str(place), None, ignore)
    with serving(root) as client:
        texts = ["a red circle", "a photo of a blue star"]
        found, expected = (vectors(one, model="demo", input=texts) for one in (client, api))
        np.testing.assert_allclose(found, expected, atol=1e-5)
