"""Image, compose file and manifests under public linters and schemas: hadolint, compose-spec, Kubernetes."""

import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from docker_files import DOCKER, KUBERAY, read

pytestmark = pytest.mark.integration

BIN = Path(sys.executable).parent


def tool(name, *words):
    program = shutil.which(name, path=str(BIN))
    assert program is not None, f"{name} is a dependency of the tests and is not beside {sys.executable}"
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = tool("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_finds_a_fault(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text((DOCKER / "Dockerfile").read_text().replace("-slim-bookworm AS run", " AS run\nRUN cd /tmp"))
    assert "DL3003" in tool("hadolint", bad).stdout


COMPOSE = ["--builtin-schema", "vendor.compose-spec"]


def test_compose_file_is_valid_under_the_compose_specification():
    done = tool("check-jsonschema", *COMPOSE, DOCKER / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_specification_refuses_an_unknown_key(tmp_path):
    tree = read(DOCKER / "compose.yaml")
    tree["services"]["head"]["heathcheck"] = tree["services"]["head"].pop("healthcheck")
    bad = tmp_path / "compose.yaml"
    bad.write_text(yaml.safe_dump(tree))
    done = tool("check-jsonschema", *COMPOSE, bad)
    assert done.returncode == 1
    assert "heathcheck" in done.stdout


def closed(required=(), **properties):
    """Schema of a mapping with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
TEMPLATE = closed(["spec"], metadata={"type": "object"}, spec={"type": "object"})  # its inside is Kubernetes' own
CLUSTER = closed(
    ["headGroupSpec", "rayVersion"],
    rayVersion=TEXT,
    authOptions=closed(["mode"], mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=WHOLE,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=closed(requests=TEXTS, limits=TEXTS),
        image=TEXT,
        imagePullPolicy=TEXT,
        env={"type": "array"},
    ),
    headGroupSpec=closed(["template"], rayStartParams=TEXTS, serviceType=TEXT, template=TEMPLATE),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "minReplicas", "maxReplicas", "template"],
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            numOfHosts=WHOLE,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        ),
    },
)
JOB = closed(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    backoffLimit=WHOLE,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=WHOLE,
    activeDeadlineSeconds=WHOLE,
    runtimeEnvYAML=TEXT,
    rayClusterSpec=CLUSTER,
)
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB}


def check_manifest(tree):
    """Ray's own fields by the types of the operator's API v1, unknown ones refused; pods by Kubernetes' schema."""
    head = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"enum": list(KINDS)}, "metadata": {"type": "object"}}
    jsonschema.validate(tree, closed(["apiVersion", "kind", "metadata", "spec"], **head, spec=KINDS[tree["kind"]]))
    spec = tree["spec"].get("rayClusterSpec", tree["spec"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_manifests_are_valid_for_operator_and_kubernetes(path):
    check_manifest(read(path))


def clusters():
    tree = read(DOCKER / "kuberay" / "cluster.yaml")
    return tree, tree["spec"]["workerGroupSpecs"][0]


def misspelt_field(tree, group):
    group["maxReplica"] = group.pop("maxReplicas")


def number_for_text(tree, group):
    group["rayStartParams"]["num-cpus"] = 0


def other_mode(tree, group):
    tree["spec"]["authOptions"]["mode"] = "tokens"


def misspelt_in_pod(tree, group):
    group["template"]["spec"]["containers"][0]["volumesMounts"] = []


def pod_without_image_name(tree, group):
    del group["template"]["spec"]["containers"][0]["name"]


@pytest.mark.parametrize(
    "break_it", [misspelt_field, number_for_text, other_mode, misspelt_in_pod, pod_without_image_name]
)
def test_a_broken_manifest_is_refused(break_it):
    tree, group = clusters()
    break_it(tree, group)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_manifest(tree)
