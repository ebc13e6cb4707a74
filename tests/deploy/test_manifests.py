"""The Kubernetes manifests: valid by Kubernetes' own schemas, as restricted as can be, and true to the program."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from kustomized import compose, documents, pod_of, pods_of_ray

from fusion_diff import cli

kubernetes_validate = pytest.importorskip("kubernetes_validate")

OLDEST = "1.30"
VARIANTS = ("overlays/cpu", "overlays/gpu")
ELSEWHERE = {"SOURCE", "MODEL", "OMP_NUM_THREADS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""Environment variables that are not the program's settings."""
CUSTOM = ("PodMonitor", "RayJob", "RayService")


@pytest.fixture(params=[*VARIANTS, "with-components"])
def manifests(request, deploy, tmp_path):
    """All manifests of an overlay; or of one that takes every component."""
    if request.param in VARIANTS:
        return compose(deploy / "kubernetes" / request.param)
    shutil.copytree(deploy / "kubernetes", tmp_path / "k")
    own = tmp_path / "k" / "overlays" / "own"
    own.mkdir()
    components = sorted(f"../../components/{each.name}" for each in (tmp_path / "k" / "components").iterdir())
    plan = {"resources": ["../../base"], "components": components}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return compose(own)


def ray(deploy):
    return [each for file in sorted((deploy / "ray").glob("*.yaml")) for each in documents(file)]


def all_pods(manifests, deploy):
    pods = [pod for pod in map(pod_of, manifests) if pod is not None]
    return pods + [pod for each in ray(deploy) for pod in pods_of_ray(each)]


def problems(pod):
    """What the restricted profile of pod security, a read-only root and no token ask for, and a pod does not give."""
    security = pod.get("securityContext", {})
    found = []
    if not security.get("runAsNonRoot") or not security.get("runAsUser", 0) > 0:
        found.append("may run as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("token mounted")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            found.append(name)
    if any("hostPath" in volume for volume in pod.get("volumes", ())):
        found.append("hostPath")
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("privileges")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append("root file system can be written")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append("capabilities")
        if "memory" not in container["resources"].get("limits", {}) or "cpu" not in container["resources"]["requests"]:
            found.append("resources")
        if container["image"].endswith(":latest") or ":" not in container["image"]:
            found.append("image of no version")
    return found


def test_every_manifest_is_valid_by_the_schemas_of_old_and_new_clusters(manifests):
    kinds = {each["kind"] for each in manifests}
    assert kinds >= {
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            for version in (OLDEST, kubernetes_validate.latest_version()):
                kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_does_not_exist_is_found(manifests):
    (deployment,) = [each for each in manifests if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, OLDEST, strict=True)


def test_every_pod_keeps_to_the_restricted_profile_and_writes_only_to_volumes(manifests, deploy):
    for pod in all_pods(manifests, deploy):
        assert problems(pod) == []
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted["tmp"] == "/tmp"
        assert set(mounted) <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "may run as root"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "no seccomp profile"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"), "capabilities"),
        (lambda pod: pod["containers"][0].update(image="fusion-diff"), "image of no version"),
        (lambda pod: pod.pop("automountServiceAccountToken"), "token mounted"),
    ],
)
def test_a_pod_that_is_less_restricted_is_found(deploy, change, found):
    (pod, *_) = [pod for pod in map(pod_of, compose(deploy / "kubernetes" / "base")) if pod]
    change(pod)
    assert problems(pod) == [found]


def test_secrets_are_referred_to_and_never_written_down(manifests, deploy):
    for manifest in [*manifests, *ray(deploy)]:
        assert manifest["kind"] != "Secret"
    for pod in all_pods(manifests, deploy):
        for variable in pod["containers"][0].get("env", ()):
            if re.search("URL|KEY|SECRET|PASSWORD", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable


def test_environment_variables_are_settings_of_the_service(manifests, deploy):
    pytest.importorskip("pydantic_settings")
    from fusion_diff.service.settings import Settings, read_settings

    for pod in all_pods(manifests, deploy):
        for variable in pod["containers"][0].get("env", ()):
            name = variable["name"]
            if name in ELSEWHERE:
                continue
            assert name.startswith("FUSION_DIFF_"), name
            field = name.removeprefix("FUSION_DIFF_").lower()
            assert field in Settings.model_fields, name
            if "value" in variable:
                read_settings(**{field: variable["value"]})


def spoken(manifests, deploy):
    """The command lines that pods run."""
    for pod in filter(None, map(pod_of, manifests)):
        line = "\n".join(pod["containers"][0]["args"])
        for variable in pod["containers"][0]["env"]:
            line = line.replace(f"$({variable['name']})", variable.get("value", ""))
        yield line.split("\n")
    for manifest in ray(deploy):
        if manifest["kind"] == "RayJob":
            python, start, *words = manifest["spec"]["entrypoint"].split()
            assert (python, start) == ("python", "/opt/fusion-diff/start.py")
            yield words


def test_the_commands_of_pods_and_their_options_exist(manifests, deploy):
    import typer

    program = typer.main.get_command(cli.app)
    seen = set()
    for words in spoken(manifests, deploy):
        while words[0] in ("--keys", "--golden"):
            words = words[2:]
        command = program.commands[words[0]]
        seen.add(words[0])
        command.make_context(words[0], list(words[1:]))  # parses, and fails at an option that does not exist
    assert seen == {"serve", "batch"}


def test_the_service_the_budget_and_the_network_policy_select_the_pods(manifests):
    kinds = {each["kind"]: each for each in manifests}
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    container = kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert kinds["Service"]["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    claims = {each["metadata"]["name"] for each in manifests if each["kind"] == "PersistentVolumeClaim"}
    for pod in filter(None, map(pod_of, manifests)):
        used = {
            each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each
        }
        assert used <= claims


def test_probes_ask_paths_that_the_service_answers_without_a_key(manifests):
    pytest.importorskip("fastapi")
    from fusion_diff.service.routes.health import router

    (deployment,) = [each for each in manifests if each["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    asked = {container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"/healthz", "/readyz"} <= {route.path for route in router.routes}
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    (drain,) = [each["value"] for each in container["env"] if each["name"] == "FUSION_DIFF_DRAIN_SECONDS"]
    assert grace > int(drain)


def test_what_is_scaled_on_is_what_the_service_counts_and_the_adapter_offers(deploy):
    pytest.importorskip("prometheus_client")
    from fusion_diff.service.metrics import Metrics

    (scaler,) = documents(deploy / "kubernetes" / "base" / "autoscaler.yaml")
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {each.name for each in Metrics().registry.collect()}
    (adapter,) = documents(deploy / "kubernetes" / "prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].startswith(name)
    assert rule["name"]["as"] == name


def test_the_gpu_overlay_computes_there(deploy):
    pods = [pod for pod in map(pod_of, compose(deploy / "kubernetes" / "overlays" / "gpu")) if pod]
    service, batch = (pod["containers"][0] for pod in pods)
    assert {"name": "FUSION_DIFF_DEVICE", "value": "cuda"} in service["env"]
    assert batch["args"][-1] == "--device=cuda"
    for container in (service, batch):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith("-cuda")


def test_every_kustomization_names_files_that_exist_and_leaves_none_out(deploy):
    for file in (deploy / "kubernetes").rglob("kustomization.yaml"):
        (plan,) = documents(file)
        named = {*plan.get("resources", ()), *(patch["path"] for patch in plan.get("patches", ()))}
        for name in named:
            assert (file.parent / name).exists(), name
        assert {each.name for each in file.parent.glob("*.yaml")} - {file.name} == {n for n in named if "/" not in n}


@pytest.mark.parametrize("variant", ["base", *VARIANTS])
def test_kustomize_itself_composes_the_same(deploy, variant):
    program = shutil.which("kustomize"), shutil.which("kubectl")
    if program == (None, None):
        pytest.skip("neither kustomize nor kubectl is installed")
    words = [program[0], "build"] if program[0] else [program[1], "kustomize"]
    done = subprocess.run(
        [*words, str(deploy / "kubernetes" / variant)], capture_output=True, encoding="utf-8", check=True
    )
    made = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert made == {(each["kind"], each["metadata"]["name"]): each for each in compose(deploy / "kubernetes" / variant)}
