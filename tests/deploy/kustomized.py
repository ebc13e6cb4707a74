"""Composes a kustomization as `kustomize build` does, as far as the ones in deploy/ go; no more than they use."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
KEYS = ("name", "mountPath", "containerPort", "key")
"""What entries of a list are told apart by, in the order in which Kubernetes' own merge keys are looked for here."""
UNDERSTOOD = {"apiVersion", "kind", "namespace", "labels", "resources", "components", "patches", "images"}


def documents(file: Path) -> list[Manifest]:
    """The manifests in a file."""
    return [each for each in yaml.safe_load_all(file.read_text(encoding="utf-8")) if each is not None]


def compose(folder: Path) -> list[Manifest]:
    """The manifests that a kustomization gives."""
    (plan,) = documents(folder / "kustomization.yaml")
    assert set(plan) <= UNDERSTOOD, f"{folder}: {set(plan) - UNDERSTOOD}"
    made: list[Manifest] = []
    for name in plan.get("resources", ()):
        path = folder / name
        made += compose(path) if path.is_dir() else documents(path)
    _refine(made, folder, plan)
    for name in plan.get("components", ()):
        (component,) = documents(folder / name / "kustomization.yaml")
        assert component["kind"] == "Component"
        for resource in component.get("resources", ()):
            made += documents(folder / name / resource)
        _refine(made, folder / name, component)
    return made


def _refine(made: list[Manifest], folder: Path, plan: Manifest) -> None:
    for patch in plan.get("patches", ()):
        read = yaml.safe_load(patch.get("patch") or (folder / patch["path"]).read_text(encoding="utf-8"))
        wanted = patch.get("target") or {"kind": read["kind"], "name": read["metadata"]["name"]}
        (target,) = [
            each for each in made if (each["kind"], each["metadata"]["name"]) == (wanted["kind"], wanted["name"])
        ]
        if isinstance(read, list):
            for step in read:
                _step(target, step)
        else:
            target.update(merged(target, read))
    for image in plan.get("images", ()):
        for pod in map(pod_of, made):
            for container in (pod or {}).get("containers", ()):
                name = container["image"].partition(":")[0]
                if name == image["name"]:
                    container["image"] = f"{image.get('newName', name)}:{image['newTag']}"
    for each in made:
        if plan.get("namespace") and each["kind"] != "Namespace":
            each["metadata"]["namespace"] = plan["namespace"]
        for labels in plan.get("labels", ()):
            each["metadata"].setdefault("labels", {}).update(labels["pairs"])


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: objects by their fields, lists of objects by what names their entries, all else replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and new and isinstance(new[0], dict):
        key = "mountPath" if "mountPath" in new[0] else next((each for each in KEYS if each in new[0]), None)
        if key is not None:
            result = {each[key]: each for each in old}
            added = {each[key]: merged(result.get(each[key]), each) for each in new}
            return list((added | {name: each for name, each in result.items() if name not in added}).values())
    return copy.deepcopy(new)


def _step(target: Any, step: Manifest) -> None:
    """One step of a JSON patch: only what is added."""
    *path, last = step["path"].strip("/").split("/")
    assert step["op"] == "add", step
    for name in path:
        target = target[int(name)] if isinstance(target, list) else target[name]
    if isinstance(target, dict):
        target[last] = step["value"]
    else:
        target.insert(len(target) if last == "-" else int(last), step["value"])


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod's specification in a manifest, if it has one."""
    spec = manifest.get("spec", {})
    for way in (("template", "spec"), ("jobTemplate", "spec", "template", "spec")):
        found = spec
        for name in way:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        if found.get("containers"):
            return found
    return None


def pods_of_ray(manifest: Manifest) -> list[Manifest]:
    """The pods' specifications in a RayJob or RayService."""
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])]
    if "submitterPodTemplate" in spec:
        templates.append(spec["submitterPodTemplate"])
    return [each["spec"] for each in templates]
