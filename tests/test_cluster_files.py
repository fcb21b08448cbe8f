"""The files in cluster/: what Ray and KubeRay make of them."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from tests import ROOT

FILES = ROOT / "cluster"

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    """A schema of an object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


WORKERS = strict(
    ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"],
    groupName=NAME,
    replicas={"type": "integer"},
    minReplicas={"type": "integer"},
    maxReplicas={"type": "integer"},
    rayStartParams=STRINGS,
    template={"type": "object"},
)
# The fields that the manifest has, as KubeRay's definitions of RayJob and RayCluster (ray.io/v1) have them: no package
# has the whole of these. A template is Kubernetes' own, as is a pod.
RAY_JOB = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=strict(["name"], name=NAME),
    spec=strict(
        ["entrypoint", "rayClusterSpec"],
        entrypoint={"type": "string"},
        backoffLimit={"type": "integer"},
        shutdownAfterJobFinishes={"type": "boolean"},
        runtimeEnvYAML={"type": "string"},
        rayClusterSpec=strict(
            ["headGroupSpec"],
            rayVersion={"type": "string"},
            authOptions=strict([], mode={"enum": ["disabled", "token"]}),
            headGroupSpec=strict(
                ["rayStartParams", "template"],
                serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                rayStartParams=STRINGS,
                template={"type": "object"},
            ),
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)


def content(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text())


@pytest.fixture
def job() -> Any:
    return content("rayjob.yaml")


def test_ray_takes_the_cluster_file() -> None:
    config = prepare_config(content("ray-cluster.yaml"))
    validate_config(config)
    (machines,) = config["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == 2
    (head,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    (worker,) = (command for command in config["worker_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert head.startswith("RAY_AUTH_MODE=token ")
    assert worker.startswith("RAY_AUTH_MODE=token ")


def test_ray_takes_the_runtime_environment() -> None:
    environment = RuntimeEnv(**content("runtime-env.yaml"))
    assert environment.has_pip()
    # Folders must be the same on all nodes, from wherever a process is started.
    assert all("/shared/" in value for name, value in environment.env_vars().items() if not name.startswith("RAY_"))


def test_the_manifest_has_what_kuberay_requires(job: Any) -> None:
    jsonschema.validate(job, RAY_JOB)


def test_kubernetes_takes_the_pods_of_the_manifest(job: Any) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        spec = pod["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert all(mount["name"] in volumes for container in spec["containers"] for mount in container["volumeMounts"])
        for container in spec["containers"]:
            container["resource"] = container.pop("resources")
        with pytest.raises(kubernetes_validate.ValidationError, match="'resource' was unexpected"):
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_manifest_keeps_the_dashboard_in_and_outsiders_out(job: Any) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["rayVersion"] == ray.__version__


def test_the_manifest_runs_a_search_in_the_same_environment(job: Any) -> None:
    command, module, space, *options = job["spec"]["entrypoint"].split()[1:]
    assert (command, module) == ("-m", "search.run")
    assert (FILES.parent / "spaces" / Path(space).name).is_file()
    assert options[0] == "--output"
    assert options[1].startswith("/shared/")
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert environment == {"env_vars": content("runtime-env.yaml")["env_vars"]}
