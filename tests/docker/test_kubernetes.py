"""The manifests fit each other, the image and the engine.

A validator knows the schemas: kubernetes-validate --strict docker/kubernetes/deployment.yaml
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[str, list[dict[str, Any]]] = {}
for name in KUSTOMIZATION["resources"]:
    for found in yaml.safe_load_all((FOLDER / name).read_text()):
        OBJECTS.setdefault(found["kind"], []).append(found)
(DEPLOYMENT,), (SERVICE,), (MONITOR,) = (OBJECTS[kind] for kind in ("Deployment", "Service", "PodMonitor"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(SERVER,) = POD["containers"]


def test_every_file_is_listed() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}


def test_probes_know_that_a_long_video_is_made() -> None:
    """A server that encodes a video answers nothing; one that is ill says so at once."""
    for kind in ("livenessProbe", "readinessProbe"):
        probe = SERVER[kind]
        assert probe["httpGet"] == {"path": "/health", "port": "http"}
        assert probe["timeoutSeconds"] >= 600 and probe["periodSeconds"] * probe["failureThreshold"] <= 120
    start = SERVER["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 1800, "a large model takes long to download and load"


def test_names_find_each_other() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    selectors = [DEPLOYMENT["spec"]["selector"]["matchLabels"], MONITOR["spec"]["selector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in [*selectors, SERVICE["spec"]["selector"]])
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    assert ports == {"http": 8000} and SERVER["command"][-2:] == ["--port", "8000"]
    assert SERVICE["spec"]["ports"][0]["targetPort"] == "http"
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    claims = {claim["metadata"]["name"] for claim in OBJECTS["PersistentVolumeClaim"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert {mount["name"] for mount in SERVER["volumeMounts"]} == set(volumes)
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v} == claims
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [SERVER["image"]]


def test_one_gpu_and_no_rights() -> None:
    assert SERVER["resources"]["limits"]["nvidia.com/gpu"] == "1" and DEPLOYMENT["spec"]["replicas"] == 1
    assert DEPLOYMENT["spec"]["strategy"] == {"type": "Recreate"}
    assert POD["securityContext"]["runAsNonRoot"] and POD["securityContext"]["fsGroup"] == 1000
    assert SERVER["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_no_service_sets_a_variable_of_lvsa() -> None:
    """Kubernetes sets NAME_PORT for a Service NAME, and an LVSA_ name that is no setting stops start-up."""
    assert POD["enableServiceLinks"] is False
    assert not SERVICE["metadata"]["name"].startswith(("lvsa", "vllm"))
