"""The Kubernetes manifests: valid by Kubernetes' own schemas, as restricted as can be, and true to the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kustomized import compose, documents, pod_of, pods_of_ray

from fusion_diff import cli

kubernetes_validate = pytest.importorskip("kubernetes_validate")

OLDEST = "1.30"
VARIANTS = ("overlays/cpu", "overlays/gpu")
OWN = "overlays/own"
AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
ELSEWHERE = {"SOURCE", "MODEL", "OMP_NUM_THREADS"} | AWS
"""Environment variables that are not the program's settings."""
CUSTOM = ("PodMonitor", "PrometheusRule", "RayJob", "RayService")
RULE = {"alert": str, "expr": str, "for": str, "labels": dict, "annotations": dict}
"""Fields of an alert of the Prometheus operator."""
UNITS = {"Gi": 2**30, "Mi": 2**20}


@pytest.fixture
def folder(deploy, tmp_path):
    """A copy of deploy/kubernetes with an overlay of one's own, as docs/deployment.md shows it."""
    shutil.copytree(deploy / "kubernetes", tmp_path / "k")
    (tmp_path / "k" / OWN).mkdir()
    (shown,) = re.findall(r"```yaml\n(.*?)```", manual(deploy), flags=re.DOTALL)
    (tmp_path / "k" / OWN / "kustomization.yaml").write_text(shown, encoding="utf-8")
    return tmp_path / "k"


@pytest.fixture(params=[*VARIANTS, OWN])
def manifests(request, folder):
    """All manifests of an overlay."""
    return compose(folder / request.param)


def manual(deploy):
    return (deploy.parent / "docs" / "deployment.md").read_text(encoding="utf-8")


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
    if security.get("fsGroupChangePolicy") != "OnRootMismatch":
        found.append("every start gives every file of its volumes to the group anew")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("token mounted")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            found.append(name)
    # A Service called fusion-diff would give its pods FUSION_DIFF_PORT=tcp://…, which is no port.
    if pod.get("enableServiceLinks") is not False:
        found.append("service links")
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
        (lambda pod: pod.pop("enableServiceLinks"), "service links"),
    ],
)
def test_a_pod_that_is_less_restricted_is_found(deploy, change, found):
    (pod, *_) = [pod for pod in map(pod_of, compose(deploy / "kubernetes" / "base")) if pod]
    change(pod)
    assert problems(pod) == [found]


def test_everything_is_in_one_namespace_and_every_image_is_one_that_is_built(manifests, deploy):
    for manifest in manifests:
        assert manifest["metadata"].get("namespace") == (None if manifest["kind"] == "Namespace" else "fusion-diff")
    built = set(re.findall(r"^\| `\w+` \| `(fusion-diff:[\w.-]+)` \|", manual(deploy), flags=re.MULTILINE))
    assert {name.rpartition("-")[2] for name in built} == {"cpu", "cuda", "ray"}
    images = {pod["containers"][0]["image"] for pod in all_pods(manifests, deploy)}
    assert {image.rpartition("/")[2] for image in images} <= built


def test_the_overlay_of_the_manual_pulls_every_image_from_its_registry(folder):
    images = {pod["containers"][0]["image"] for pod in map(pod_of, compose(folder / OWN)) if pod}
    assert images == {"registry.example/lab/fusion-diff:0.1.0-cpu"}


def test_the_overlay_of_the_manual_has_every_component(folder):
    (plan,) = documents(folder / OWN / "kustomization.yaml")
    assert sorted(plan["components"]) == sorted(
        f"../../components/{each.name}" for each in (folder / "components").iterdir()
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_of_an_overlay_is_lost_where_the_model_has_to_be_signed(folder, variant):
    def words(of):
        return [pod["containers"][0]["args"] for pod in map(pod_of, compose(folder / of)) if pod]

    plan = {"resources": [f"../{Path(variant).name}"], "components": ["../../components/signed-model"]}
    (folder / OWN / "kustomization.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    assert words(OWN) == [["--keys", "/keys", *each] for each in words(variant)]


def test_the_pod_that_fills_the_signed_volume_is_restricted_and_the_only_one_that_writes_there(folder, deploy):
    (filling,) = documents(deploy / "kubernetes" / "fill-signed-model.yaml")
    for version in (OLDEST, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(filling, version, strict=True)
    assert problems(filling["spec"]) == []
    made = compose(folder / OWN)
    (claim,) = [each for each in made if each["metadata"]["name"] == "fusion-diff-signed"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (signed,) = [each for each in filling["spec"]["volumes"] if each["name"] == "signed"]
    assert signed["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    for pod in filter(None, map(pod_of, made)):
        (signed,) = [each for each in pod["volumes"] if each["name"] == "signed"]
        assert signed["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"], "readOnly": True}
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "signed"]
        assert mount == {"name": "signed", "mountPath": "/signed", "readOnly": True}
        named = [each["value"] for each in pod["containers"][0]["env"] if each["name"].split("_")[-1] == "MODEL"]
        for model in named:
            assert f"`{model}`" in manual(deploy)
            assert f"fusion-diff-fill:{model}\n" in manual(deploy)
            assert f"fusion-diff-fill:{model}.sig\n" in manual(deploy)
        assert len(named) == 1


def test_the_secret_of_the_metrics_is_made_as_the_pod_monitor_reads_it(folder, deploy):
    (monitor,) = [each for each in compose(folder / OWN) if each["kind"] == "PodMonitor"]
    asked = monitor["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"]
    assert f"create secret generic {asked['name']} --from-literal={asked['key']}=KEY\n" in manual(deploy)


def test_secrets_are_referred_to_and_never_written_down(manifests, deploy):
    for manifest in [*manifests, *ray(deploy)]:
        assert manifest["kind"] != "Secret"
    variables = [each for pod in all_pods(manifests, deploy) for each in pod["containers"][0].get("env", ())]
    secret = [each for each in variables if re.search("URL|KEY|SECRET|PASSWORD", each["name"])]
    assert "FUSION_DIFF_DATABASE_URL" in {each["name"] for each in secret}
    for variable in secret:
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


def test_names_are_resolved_by_the_cluster_and_by_a_cache_on_the_node(manifests):
    (policy,) = [each for each in manifests if each["kind"] == "NetworkPolicy"]
    (names,) = [each for each in policy["spec"]["egress"] if 53 in {port["port"] for port in each["ports"]}]
    assert {port["protocol"] for port in names["ports"]} == {"UDP", "TCP"}
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names["to"]
    assert len(names["to"]) == 2


def test_probes_ask_paths_that_the_service_answers_without_a_key(manifests):
    pytest.importorskip("fastapi")
    from fusion_diff.service.routes.health import router

    (deployment,) = [each for each in manifests if each["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    asked = {container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"/healthz", "/readyz"} <= {route.path for route in router.routes}
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > 0
    assert grace >= pause + int(setting(container, "DRAIN_SECONDS")) + 10


def setting(container, name):
    (value,) = [each["value"] for each in container["env"] if each["name"] == f"FUSION_DIFF_{name}"]
    return value


def size(text):
    return int(text[:-2]) * UNITS[text[-2:]]


def test_uploads_fit_the_volumes_and_the_volumes_the_pod(deploy):
    """All that may wait, and eight requests that come in, once in the data folder and once as the parser keeps it."""
    (service,) = documents(deploy / "kubernetes" / "base" / "deployment.yaml")
    (ray_service,) = documents(deploy / "ray" / "rayservice.yaml")
    pytest.importorskip("fastapi")
    from fusion_diff.micrograph.limits import MAX_PIXEL_BYTES, MAX_STRIP_BYTES
    from fusion_diff.service.concurrency_limits import DECODERS
    from fusion_diff.service.queue import READ_AHEAD_BYTES

    for pod, replicas in ((pod_of(service), 1), (pods_of_ray(ray_service)[1], 2)):
        (container,) = pod["containers"]
        asked = ("QUEUE_LENGTH", "MAX_UPLOAD_BYTES", "MAX_REQUEST_BYTES", "MAX_PIXELS")
        queue, upload, request, pixels = (int(setting(container, name)) for name in asked)
        room = {each["name"]: size(each["emptyDir"]["sizeLimit"]) for each in pod["volumes"] if "emptyDir" in each}
        forms = queue * upload + 8 * request
        # A job fetches one file, a decoder a micrograph and its mask.
        assert room["data"] >= replicas * (forms + (1 + 2 * DECODERS) * upload)
        # One more than fits in what is read ahead (alpha is not counted), the one being judged, those being decoded.
        decoded = 2 * READ_AHEAD_BYTES + (2 + DECODERS) * MAX_PIXEL_BYTES * pixels
        copies = (1 + DECODERS) * upload
        assert room["tmp"] >= replicas * (forms + decoded + copies + 2**30)
        limits = container["resources"]["limits"]
        assert size(limits["memory"]) >= replicas * (3 * 2**30 + (1 + DECODERS) * MAX_STRIP_BYTES)
        if "ephemeral-storage" in limits:
            assert size(limits["ephemeral-storage"]) > sum(room.values())


def test_a_batch_has_room_for_the_largest_micrograph(deploy):
    """Fetched, copied to be judged from, and decoded."""
    from fusion_diff.batch.items import MAX_FETCH_BYTES
    from fusion_diff.micrograph.limits import MAX_PIXEL_BYTES, MAX_PIXELS

    (batch,) = documents(deploy / "kubernetes" / "base" / "batch.yaml")
    (tmp,) = [each["emptyDir"] for each in pod_of(batch)["volumes"] if "emptyDir" in each]
    assert size(tmp["sizeLimit"]) >= 2 * MAX_FETCH_BYTES + MAX_PIXEL_BYTES * MAX_PIXELS


def test_another_model_writes_to_another_folder(manifests, deploy):
    outs = [words[words.index("--out") + 1] for words in spoken(manifests, deploy) if "--out" in words]
    assert outs == ["/results/{model}", "/results/archive/{model}"]


def test_a_nightly_batch_outlives_drained_nodes_and_passing_errors(manifests):
    (batch,) = [each for each in manifests if each["kind"] == "CronJob"]
    job = batch["spec"]["jobTemplate"]["spec"]
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "Kubernetes allows the policy with no other"
    assert "--retry" in pod_of(batch)["containers"][0]["args"]


def test_every_volume_can_be_mounted_on_several_nodes(manifests):
    claims = [each for each in manifests if each["kind"] == "PersistentVolumeClaim"]
    assert {mode for claim in claims for mode in claim["spec"]["accessModes"]} == {"ReadWriteMany"}


def test_every_pod_that_reads_a_store_is_told_where_it_is(manifests, deploy):
    for pod in all_pods(manifests, deploy):
        given = {
            each["name"]: each["valueFrom"]["secretKeyRef"]["key"]
            for each in pod["containers"][0].get("env", ())
            if each["name"] in AWS
        }
        assert set(given) in (set(), AWS)
        assert all(f"`{key}`" in manual(deploy) for key in given.values())


def test_the_database_is_said_to_need_as_many_connections_as_all_replicas_open(deploy):
    pytest.importorskip("psycopg")
    from fusion_diff.service.database import _engine

    (scaler,) = documents(deploy / "kubernetes" / "base" / "autoscaler.yaml")
    (service,) = documents(deploy / "kubernetes" / "base" / "deployment.yaml")
    replicas = scaler["spec"]["maxReplicas"] + service["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    pool = _engine("postgresql://nobody@nowhere/none").pool
    assert (
        f"{replicas} × {pool.size() + pool._max_overflow} = {replicas * (pool.size() + pool._max_overflow)}"
        in manual(deploy)
    )


def test_keys_are_made_as_the_manual_says(deploy, call_cli, tmp_path):
    pytest.importorskip("sqlalchemy")
    lines = re.findall(r"^    kubectl .*exec .*-- fusion-diff (.*)$", manual(deploy), flags=re.MULTILINE)
    assert {line.split()[2] for line in lines} == {"admin", "prometheus"}
    for line in lines:
        code, key, err = call_cli(*line.split(), "--data", str(tmp_path))
        assert code == 0
        assert "Error" not in err
        assert len(key.strip()) > 40


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


def alerts(deploy):
    (made,) = documents(deploy / "kubernetes" / "components" / "monitoring" / "rules.yaml")
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert set(made["spec"]) == {"groups"}
    (group,) = made["spec"]["groups"]
    assert set(group) == {"name", "rules"}
    return {each["alert"]: each for each in group["rules"]}


def test_alerts_are_as_the_operator_takes_them(deploy):
    found = alerts(deploy)
    assert len(found) == 5
    for rule in found.values():
        assert set(rule) <= set(RULE)
        assert all(isinstance(value, RULE[name]) for name, value in rule.items())
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
        assert {type(value) for value in [*rule["labels"].values(), *rule["annotations"].values()]} == {str}
        assert 'namespace="fusion-diff"' in rule["expr"], "another service's are none of ours"
        for opening, closing in ("()", "{}", "[]"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)


def test_alerts_are_on_what_the_service_counts_from_its_start(deploy):
    prometheus_client = pytest.importorskip("prometheus_client")
    from fusion_diff.service.metrics import FAULTS, Metrics

    shown = prometheus_client.generate_latest(Metrics().registry).decode()
    expressions = [rule["expr"] for rule in alerts(deploy).values()]
    named = set(re.findall(r"\bfusion_diff_\w+", " ".join(expressions)))
    assert named == {"fusion_diff_faults_total", "fusion_diff_database_up", "fusion_diff_queue_depth"}
    for name in named:
        assert re.search(rf"^{name}(\{{.*\}})? 0\.0$", shown, flags=re.MULTILINE), name
    for kind in FAULTS:
        assert f'fusion_diff_faults_total{{kind="{kind}"}} 0.0' in shown
    assert set(re.findall(r"\bkube_\w+", " ".join(expressions))) == {
        "kube_deployment_status_replicas_available",
        "kube_job_failed",
    }


def test_the_alert_on_the_queue_comes_at_three_quarters_of_its_length(deploy):
    (service,) = documents(deploy / "kubernetes" / "base" / "deployment.yaml")
    length = int(setting(pod_of(service)["containers"][0], "QUEUE_LENGTH"))
    assert alerts(deploy)["FusionDiffQueueFilling"]["expr"].endswith(f"> {length * 3 // 4}")


def test_an_update_on_gpus_asks_for_no_gpu_more_than_the_service_has(deploy):
    (service,) = [each for each in compose(deploy / "kubernetes" / "overlays" / "gpu") if each["kind"] == "Deployment"]
    assert service["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_a_pod_that_is_not_ready_does_not_hold_up_its_node(manifests):
    (budget,) = [each for each in manifests if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_gpu_overlay_computes_there(deploy):
    """By the image, which sets the device for all commands."""
    steps = (deploy / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^FROM cpu AS cuda\n(?:#.*\n)*ENV FUSION_DIFF_DEVICE=cuda ", steps, flags=re.MULTILINE)
    overlays = deploy / "kubernetes" / "overlays"
    pods, on_cpu = (list(filter(None, map(pod_of, compose(overlays / each)))) for each in ("gpu", "cpu"))
    for pod, other in zip(pods, on_cpu, strict=True):
        container, least = pod["containers"][0], other["containers"][0]["resources"]["limits"]["memory"]
        assert size(container["resources"]["limits"]["memory"]) >= size(least) + 2 * 2**30, "CUDA's share"
        assert not [each for each in container["env"] if each["name"] == "FUSION_DIFF_DEVICE"]
        assert not [word for word in container["args"] if word.startswith("--device")]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith("-cuda")


def test_every_kustomization_names_files_that_exist_and_leaves_none_out(deploy):
    for file in (deploy / "kubernetes").rglob("kustomization.yaml"):
        (plan,) = documents(file)
        named = {*plan.get("resources", ()), *(patch["path"] for patch in plan.get("patches", ()))}
        for name in named:
            assert (file.parent / name).exists(), name
        assert {each.name for each in file.parent.glob("*.yaml")} - {file.name} == {n for n in named if "/" not in n}


@pytest.mark.parametrize("variant", ["base", *VARIANTS, OWN])
def test_kustomize_itself_composes_the_same(folder, variant):
    program = shutil.which("kustomize"), shutil.which("kubectl")
    if program == (None, None):
        pytest.skip("neither kustomize nor kubectl is installed")
    words = [program[0], "build"] if program[0] else [program[1], "kustomize"]
    done = subprocess.run([*words, str(folder / variant)], capture_output=True, encoding="utf-8", check=True)
    made = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert made == {(each["kind"], each["metadata"]["name"]): each for each in compose(folder / variant)}
