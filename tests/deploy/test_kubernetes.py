"""What Kubernetes would be given."""

import copy
import shlex
from typing import Any

import pytest
import typer
import yaml
from openclip_triton.command.cli import app

from gateway.settings import Settings
from tests.conftest import ROOT

pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

from tests.deploy import manifests
from tests.deploy.manifests import find

RULES = ROOT / "deploy" / "prometheus" / "rules"
OPERATED = {"ServiceMonitor": 2, "PrometheusRule": 1, "ScaledObject": 1}
CLAIM = "openclip-models"

Resource = dict[str, Any]


@pytest.fixture(scope="module", params=manifests.OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    if manifests.renderer() is None:
        pytest.skip("neither kustomize nor kubectl is here")
    return manifests.rendered(request.param)


def pod(resources: list[Resource], name: str) -> Resource:
    spec: Resource = find(resources, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def test_base_is_valid() -> None:
    assert not manifests.problems(manifests.base())


def test_what_is_applied_by_itself_is_valid() -> None:
    found = sorted((each["kind"], each["metadata"]["namespace"]) for each in manifests.apart())
    assert found == [
        ("Job", "openclip"),
        ("NetworkPolicy", "openclip"),
        ("NetworkPolicy", "openclip-bulk"),
        ("Pod", "openclip"),
        ("RayJob", "openclip-bulk"),
    ]
    assert not manifests.problems(manifests.apart())


def test_a_wrong_field_and_a_wrong_kind_are_found() -> None:
    service = next(each for each in manifests.base() if each["kind"] == "Service")
    wrong, unknown = copy.deepcopy(service), copy.deepcopy(service)
    wrong["spec"]["port"] = 8080
    unknown["kind"] = "Servant"
    assert len(manifests.problems([wrong, unknown])) == 2


def test_a_wrong_field_in_a_pod_of_a_ray_job_is_found() -> None:
    job = copy.deepcopy(find(manifests.apart(), "RayJob", "openclip-bulk"))
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    group["template"]["spec"]["containers"][0]["envFrom"] = {"secretRef": {"name": "a"}}
    [problem] = manifests.problems([job])
    assert problem.startswith("Pod openclip-bulk-workers: ")


def test_the_ray_job_runs_the_command_in_confined_pods() -> None:
    job = find(manifests.apart(), "RayJob", "openclip-bulk")
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "openclip-triton"
    parser = typer.main.get_group(app).commands[command]
    parsed = parser.make_context(command, arguments).params  # a wrong option is an error
    service, _, port = parsed["server"].partition(":")
    name, _, namespace = service.partition(".")
    gateway = find(manifests.base(), "Service", name)
    assert int(port) in {each["port"] for each in gateway["spec"]["ports"]}
    assert namespace == find(manifests.base(), "Namespace", "openclip")["metadata"]["name"]
    head, workers = manifests.pods(job)
    for spec in (head["spec"], workers["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert container["image"] in (ROOT / "docs" / "bulk.md").read_text()


def test_overlays_are_valid(resources: list[Resource]) -> None:
    assert not manifests.problems(resources)
    operated = [r["kind"] for r in resources if r["apiVersion"].startswith(manifests.OPERATORS)]
    assert {kind: operated.count(kind) for kind in set(operated)} == OPERATED


@pytest.mark.parametrize("name", ["openclip-gateway", "openclip-triton"])
def test_pods_are_confined(resources: list[Resource], name: str) -> None:
    spec = pod(resources, name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert {each["topologyKey"] for each in spec["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]


@pytest.mark.parametrize("name", ["openclip-gateway", "openclip-triton"])
def test_names_fit_together(resources: list[Resource], name: str) -> None:
    deployment = find(resources, "Deployment", name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    fields = {
        "Service": "selector",
        "PodDisruptionBudget": "selector",
        "NetworkPolicy": "podSelector",
    }
    for kind, field in fields.items():
        selector = find(resources, kind, name)["spec"][field]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    ports = {port["name"] for c in pod(resources, name)["containers"] for port in c["ports"]}
    for port in find(resources, "Service", name)["spec"]["ports"]:
        assert port["targetPort"] in ports


def passing() -> dict[str, Resource]:
    """The specs of the pods that come and go, by their files."""
    job = find(manifests.apart(), "Job", "openclip-export")["spec"]["template"]["spec"]
    return {"export-job": job, "models-pod": find(manifests.apart(), "Pod", CLAIM)["spec"]}


@pytest.mark.parametrize("file", ["export-job", "models-pod"])
def test_passing_pods_are_confined_and_write_the_claim(file: str) -> None:
    spec = passing()[file]
    assert spec["automountServiceAccountToken"] is False
    user = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    assert user.items() <= spec["securityContext"].items()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    find(manifests.base(), "PersistentVolumeClaim", CLAIM)
    (claim,) = [each for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert claim["persistentVolumeClaim"] == {"claimName": CLAIM}
    assert {each["name"] for each in spec["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"] if "readOnly" not in mount
    }


def test_the_export_job_mounts_what_compose_mounts() -> None:
    export = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["export"]
    (container,) = passing()["export-job"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    temporary = {each.partition(":")[0] for each in export["tmpfs"]}
    assert mounted == {each.rpartition(":")[2] for each in export["volumes"]} | temporary
    assert {"name": "HF_HOME", "value": export["environment"]["HF_HOME"]} in container["env"]


def test_the_export_job_reaches_names_and_the_hub_alone() -> None:
    policy = find(manifests.apart(), "NetworkPolicy", "openclip-export")["spec"]
    template = find(manifests.apart(), "Job", "openclip-export")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    allowed = [{port["port"] for port in rule["ports"]} for rule in policy["egress"]]
    assert allowed == [{53}, {443}]


def test_passing_images_are_pushed_with_the_overlays() -> None:
    path = manifests.FOLDER / "overlays" / "cpu" / "kustomization.yaml"
    pushed = yaml.safe_load(path.read_text())["images"][0]
    where, tag = pushed["newName"].rpartition("/")[0], pushed["newTag"]
    images = {each["containers"][0]["image"] for each in passing().values()}
    assert images == {f"{where}/export:{tag}", f"{where}/gateway:{tag}"}
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert f"REGISTRY={where}" in guide
    assert f":{tag}" in guide


def test_the_gateway_knows_its_variables_and_asks_for_keys(resources: list[Resource]) -> None:
    (container,) = pod(resources, "openclip-gateway")["containers"]
    config = find(resources, "ConfigMap", container["envFrom"][0]["configMapRef"]["name"])
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    assert config["data"].keys() <= known
    assert config["data"]["GATEWAY_API_KEYS_FILE"] == "/keys/keys.yaml"
    (secret,) = [v for v in pod(resources, "openclip-gateway")["volumes"] if v["name"] == "keys"]
    assert not secret["secret"].get("optional")


def test_triton_is_found_by_all_its_addresses(resources: list[Resource]) -> None:
    service = find(resources, "Service", "openclip-triton")
    assert service["spec"]["clusterIP"] == "None"
    config = next(each for each in resources if each["kind"] == "ConfigMap")
    assert config["data"]["GATEWAY_TRITON_ADDRESS"] == "openclip-triton:8001"


def test_only_pods_with_triton_and_gateways_hold_tritons_secret(resources: list[Resource]) -> None:
    (triton,) = pod(resources, "openclip-triton")["containers"]
    config = next(each for each in resources if each["kind"] == "ConfigMap")
    [file] = [each["value"] for each in triton["env"] if each["name"] == "TRITON_SECRET_FILE"]
    assert file == config["data"]["GATEWAY_TRITON_SECRET_FILE"]
    for name in ("openclip-gateway", "openclip-triton"):
        spec = pod(resources, name)
        (volume,) = [each for each in spec["volumes"] if each["name"] == "secret"]
        assert volume["secret"] == {"secretName": "openclip-triton-secret", "defaultMode": 0o440}
        mount = {"name": "secret", "mountPath": file.rpartition("/")[0], "readOnly": True}
        assert mount in spec["containers"][0]["volumeMounts"]
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert "create secret generic openclip-triton-secret --from-literal=triton=" in guide
    assert not any("secret" in str(spec["volumes"]) for spec in passing().values())


def test_triton_is_probed_without_http(resources: list[Resource]) -> None:
    (container,) = pod(resources, "openclip-triton")["containers"]
    assert {port["containerPort"] for port in container["ports"]} == {8001, 8002}
    assert (
        container["startupProbe"]["grpc"] == container["readinessProbe"]["grpc"] == {"port": 8001}
    )
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


def test_a_gpu_is_asked_for_by_the_gpu_overlay_alone() -> None:
    if manifests.renderer() is None:
        pytest.skip("neither kustomize nor kubectl is here")
    for overlay in manifests.OVERLAYS:
        (container,) = pod(manifests.rendered(overlay), "openclip-triton")["containers"]
        asked = "nvidia.com/gpu" in container["resources"]["limits"]
        assert asked is (overlay == "gpu")
        assert container["image"].partition(":")[0].endswith(f"triton-{overlay}")


def test_the_operators_rules_are_prometheus_own() -> None:
    operators = yaml.safe_load((manifests.FOLDER / "components/monitoring/rules.yaml").read_text())
    own = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((RULES / name).read_text())["groups"]
    ]
    assert operators["spec"]["groups"] == own


def test_scaling_asks_for_metrics_that_the_gateway_has() -> None:
    path = manifests.FOLDER / "components" / "queue-scaling" / "scaledobject.yaml"
    (trigger,) = yaml.safe_load(path.read_text())["spec"]["triggers"]
    source = (ROOT / "gateway" / "telemetry" / "metrics.py").read_text()
    assert "openclip_stage_duration_seconds_sum" in trigger["metadata"]["query"]
    assert '"openclip_stage_duration_seconds"' in source
