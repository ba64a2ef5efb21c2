"""The Helm chart gives Kubernetes what the overlays give it, and takes the documented values."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

if find_spec("helm_python") is None:
    pytest.skip("helm-python-sdk is not installed", allow_module_level=True)
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

from tests.deploy import helm, manifests
from tests.deploy.manifests import find

Resource = dict[str, Any]
WHOLE = {"resources", "nodeSelector", "tolerations", "imagePullSecrets", "env"}  # values of one row


def alike(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    """The resources without what the two tools do in ways of their own."""
    text = yaml.safe_dump(resources)
    text = re.sub(
        r"\bopenclip-gateway-[a-z0-9]{10}\b", "openclip-gateway", text
    )  # kustomize's hash
    found = {}
    for each in yaml.safe_load(text):
        each["metadata"].pop("namespace", None)  # Helm's is that of the release
        annotations = each["metadata"].get("annotations", {})
        assert annotations == each["metadata"].pop("annotations", {})
        if each["kind"] == "Deployment":
            each["spec"]["template"]["metadata"].pop("annotations", None)
        if each["kind"] != "Namespace":
            found[each["kind"], each["metadata"]["name"]] = each
    return found


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_it_is_what_the_overlay_is(overlay: str) -> None:
    if manifests.renderer() is None:
        pytest.skip("neither kustomize nor kubectl is here")
    ours = helm.rendered(helm.VALUES[overlay])
    assert alike(ours) == alike(manifests.rendered(overlay))


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_kubernetes_and_lint_find_nothing(overlay: str) -> None:
    assert not manifests.problems(helm.rendered(helm.VALUES[overlay]))
    assert not helm.problems()


def test_a_packed_chart_is_whole(tmp_path: Path) -> None:
    assert helm.rendered({}, helm.packed(tmp_path)) == helm.rendered({})


def test_every_value_does_what_the_table_says() -> None:
    usual = helm.rendered({})
    selector, tolerations = {"disk": "fast"}, [{"operator": "Exists"}]
    own = {
        "nodeSelector": selector,
        "tolerations": tolerations,
        "resources": {"limits": {"cpu": 1}},
    }
    resources = helm.rendered(
        {
            "registry": "r.example.org/a", "tag": "9", "imagePullSecrets": [{"name": "s"}],
            "gateway": own | {
                "image": "g", "replicas": {"min": 3, "max": 4}, "cpuPercent": 50,
                "env": {
                    "GATEWAY_MAX_ITEMS": 64, "GATEWAY_DRAIN_S": 0.5, "GATEWAY_FETCH_URLS": True,
                    "GATEWAY_MAX_BODY_BYTES": 33554432, "GATEWAY_MODELS": '["<a>"]',
                },
            },
            "triton": own | {"image": "t", "replicas": {"min": 5, "max": 6}},
            "models": {"size": "1Ti", "storageClass": "nfs"},
        }
    )  # fmt: skip
    for name, image in (("openclip-gateway", "g"), ("openclip-triton", "t")):
        template = find(resources, "Deployment", name)["spec"]["template"]
        spec = template["spec"]
        assert spec["containers"][0]["image"] == f"r.example.org/a/{image}:9"
        assert spec["containers"][0]["resources"]["limits"]["cpu"] == 1
        assert (spec["nodeSelector"], spec["tolerations"]) == (selector, tolerations)
        assert spec["imagePullSecrets"] == [{"name": "s"}]
    env = find(resources, "ConfigMap", "openclip-gateway")["data"]
    assert env["GATEWAY_MAX_ITEMS"] == "64"
    assert env["GATEWAY_DRAIN_S"] == "0.5"
    assert env["GATEWAY_MAX_BODY_BYTES"] == "33554432"
    assert env["GATEWAY_MODELS"] == '["<a>"]'
    assert env["GATEWAY_FETCH_URLS"] == "true"
    assert env["GATEWAY_TRITON_CALLS"] == "1"
    assert env["GATEWAY_TRITON_ADDRESS"] == "openclip-triton:8001"
    before, after = (
        find(each, "Deployment", "openclip-gateway")["spec"]["template"]["metadata"]["annotations"]
        for each in (usual, resources)
    )
    assert before != after  # pods start anew with another environment
    scaled = find(resources, "HorizontalPodAutoscaler", "openclip-gateway")["spec"]
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (3, 4)
    assert scaled["metrics"][0]["resource"]["target"]["averageUtilization"] == 50
    scaled = find(resources, "ScaledObject", "openclip-triton")["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (5, 6)
    claim = find(resources, "PersistentVolumeClaim", "openclip-models")["spec"]
    assert (claim["resources"]["requests"]["storage"], claim["storageClassName"]) == ("1Ti", "nfs")


def test_what_is_turned_off_is_left_out() -> None:
    off = {"monitoring": False, "queueScaling": False, "networkPolicies": False}
    usual, less = helm.rendered({}), helm.rendered({**off, "models": {"create": False}})
    kinds = {each["kind"] for each in usual} - {each["kind"] for each in less}
    operated = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
    assert kinds == {*operated, "NetworkPolicy", "PersistentVolumeClaim"}
    assert find(less, "Deployment", "openclip-triton")["spec"]["replicas"] == 2
    assert "replicas" not in find(less, "Deployment", "openclip-gateway")["spec"]
    assert "replicas" not in find(usual, "Deployment", "openclip-triton")["spec"]


@pytest.mark.parametrize(
    "values",
    [{"gatway": {}}, {"gateway": {"env": {"MAX_ITEMS": 1}}}, {"triton": {"replicas": {"min": 0}}}],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.ChartError):
        helm.rendered(values)


def rows(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The values by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name not in WHOLE:
            found |= rows(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def test_every_value_is_in_the_table_with_its_default() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    table = page.partition("| value | default | meaning |\n|---|---|---|\n")[2].partition("\n\n")[0]
    shown = {}
    for row in table.splitlines():
        name, default, meaning = row.strip("|").split(" | ")
        shown[name.strip(" `")] = yaml.safe_load(default.strip().strip("`"))
        assert meaning.strip()
    assert shown == rows(yaml.safe_load((helm.CHART / "values.yaml").read_text()))
