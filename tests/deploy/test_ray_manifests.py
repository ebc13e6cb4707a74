"""The manifests for KubeRay, whose schemas come with no package: their shape, and that they name what exists."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kustomized import documents, pods_of_ray
from starlette.testclient import TestClient

from fusion_diff.service.problems import UnavailableError

kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
FIELDS = {
    "RayJob": {
        "entrypoint",
        "backoffLimit",
        "activeDeadlineSeconds",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "submitterPodTemplate",
        "rayClusterSpec",
    },
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}


@pytest.fixture(params=["rayjob.yaml", "rayservice.yaml"])
def manifest(request, deploy):
    (found,) = documents(deploy / "ray" / request.param)
    return found


def cluster_of(manifest):
    return manifest["spec"].get("rayClusterSpec") or manifest["spec"]["rayClusterConfig"]


def test_a_manifest_has_the_fields_that_kuberay_knows(manifest):
    assert manifest["apiVersion"] == "ray.io/v1"
    assert set(manifest["spec"]) <= FIELDS[manifest["kind"]]
    cluster = cluster_of(manifest)
    assert set(cluster) <= CLUSTER
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert {"groupName", "rayStartParams", "template"} <= set(group)
    for value in cluster["headGroupSpec"]["rayStartParams"].values():
        assert isinstance(value, str)


def test_its_pods_are_valid_by_kubernetes_own_schema(manifest):
    specs = list(pods_of_ray(manifest))
    assert len(specs) >= 2, "the head's and the workers'"
    for spec in specs:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.30", strict=True)


def test_the_workers_have_room_for_as_many_replicas_as_may_run(deploy):
    (manifest,) = documents(deploy / "ray" / "rayservice.yaml")
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    (workers,) = cluster_of(manifest)["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert not cluster_of(manifest)["enableInTreeAutoscaling"], "the number of workers stays"
    needed = deployment["autoscaling_config"]["max_replicas"] * deployment["ray_actor_options"]["num_cpus"]
    assert needed <= workers["replicas"] * int(container["resources"]["limits"]["cpu"])


def test_its_version_of_ray_is_the_pinned_one_and_its_image_that_of_the_service(manifest, deploy):
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster_of(manifest)['rayVersion']}\n" in pins
    (image,) = {pod["containers"][0]["image"] for pod in pods_of_ray(manifest)}
    assert image == "fusion-diff:0.1.0-ray"
    assert re.search(r"^FROM runtime AS ray$", (deploy / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_application_that_ray_serve_imports_is_in_the_image(deploy):
    (manifest,) = documents(deploy / "ray" / "rayservice.yaml")
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    source = (deploy / "ray" / f"{module}.py").read_text(encoding="utf-8")
    assert f"\n{name} = FusionDiff.bind()" in source
    (deployment,) = application["deployments"]
    assert f'name="{deployment["name"]}"' in source
    assert f"deploy/ray/{module}.py /opt/fusion-diff/" in (deploy / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def serve_app(deploy, monkeypatch, tmp_path):
    """The application's module, with an environment that tells where its data lie."""
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed", exc_type=ImportError)
    spec = importlib.util.spec_from_file_location("serve_app", deploy / "ray" / "serve_app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("FUSION_DIFF_DATA", str(tmp_path / "replica"))
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_replica_builds_the_app_from_its_own_environment(serve_app):
    paths = set(serve_app.build().openapi()["paths"])
    assert {"/healthz", "/v1/inspections"} <= paths


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_replica_whose_queue_has_ended_by_a_fault_is_unhealthy(serve_app):
    replica = SimpleNamespace(app=serve_app.build())
    check_health = serve_app.FusionDiff.func_or_class.check_health
    with TestClient(replica.app):
        asyncio.run(check_health(replica))
        queue = replica.app.state.service.queue
        queue._finished.put(None)  # what ends the recording thread
        queue._threads[-1].join()
        with pytest.raises(UnavailableError, match="the queue has ended by a fault"):
            asyncio.run(check_health(replica))
