"""Image, compose file, manifests and launcher files: form, locked versions and safety."""

import re
import tomllib

import pytest
from docker_files import DOCKER, KUBERAY, LAUNCHER, LOCKED, ROOT, instructions, read

from esper_ray.leyline.config.loading import preset_names


def test_the_image_copies_existing_files_of_the_build_context():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
    assert set(copied) == sent


def test_dependencies_are_a_layer_before_the_source():
    steps = [f"{word} {rest}" for word, rest in instructions()]
    dependencies = next(i for i, step in enumerate(steps) if "install.sh dependencies" in step)
    source = next(i for i, step in enumerate(steps) if step.startswith("COPY esper_ray"))
    project = next(i for i, step in enumerate(steps) if "install.sh project" in step)
    assert dependencies < source < project


def test_the_image_runs_without_root_and_has_a_health_check():
    words = [word for word, _ in instructions()]
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    assert user not in ("root", "0")
    assert "HEALTHCHECK" in words
    assert words.index("USER") < words.index("CMD")


def test_the_project_supports_the_python_of_the_image():
    (version,) = [
        rest.partition("=")[2] for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON")
    ]
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_manifests_have_the_locked_ray_and_require_a_token(path):
    tree = read(path)
    spec = tree["spec"].get("rayClusterSpec", tree["spec"])
    assert tree["apiVersion"] == "ray.io/v1"
    assert spec["rayVersion"] == LOCKED["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    groups = spec["workerGroupSpecs"]
    for group in groups:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in [spec["headGroupSpec"], *groups]:
        inside = pod["template"]["spec"]
        assert inside["securityContext"]["runAsNonRoot"] is True
        claims = {volume["name"] for volume in inside["volumes"]}
        for container in inside["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= claims
    assert any(
        "nvidia.com/gpu" in c["resources"]["limits"] for g in groups for c in g["template"]["spec"]["containers"]
    )


def test_the_job_is_an_existing_command_that_can_be_retried():
    import shlex

    from typer.main import get_command

    from esper_ray.cli.main import app, spread

    words = spread(shlex.split(read(DOCKER / "kuberay" / "job.yaml")["spec"]["entrypoint"]))
    assert words[:3] == ["esper", "train", "ppo"]
    command = get_command(app).commands["train"].commands["ppo"]
    context = command.make_context("ppo", words[3:])
    assert context.params["run_id"]
    assert context.params["storage"]


def test_compose_services_are_connected_and_closed_to_the_network():
    tree = read(DOCKER / "compose.yaml")
    services = tree["services"]
    assert set(services) == {"head", "worker", "worker-gpu", "prometheus", "grafana"}
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), volume
            elif not source.startswith("$"):
                assert source in tree["volumes"], volume
        for port in service.get("ports", ()):
            assert port.startswith("${BIND:-127.0.0.1}:"), port
    for name in ("head", "worker", "worker-gpu"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert "shm_size" in services[name]
    for name in ("head", "prometheus", "grafana"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_every_variable_of_compose_is_explained_or_has_a_default():
    text = (DOCKER / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required
    example = (DOCKER / ".env.example").read_text()
    for name in required:
        assert re.search(rf"^{name}=", example, re.M), name
    assert not re.search(r"\$\{\w+\}", text)


def test_prometheus_finds_ray_where_the_head_writes():
    scrape = read(DOCKER / "prometheus" / "prometheus.yaml")["scrape_configs"]
    (file,) = scrape[0]["file_sd_configs"][0]["files"]
    head = read(DOCKER / "compose.yaml")["services"]["head"]
    folder = next(word.partition("=")[2] for word in head["command"] if word.startswith("--temp-dir"))
    assert file == f"{folder}/prom_metrics_service_discovery.json"


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_launcher_files_are_accepted_by_ray(path):
    """The validator of ``ray up`` accepts the file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    tree = read(path)
    validate_config(prepare_config(tree))


def test_launcher_files_are_installed_beside_the_presets_and_are_no_presets():
    assert {path.stem for path in LAUNCHER} == {"aws", "on_premise"}
    assert not {path.stem for path in LAUNCHER} & set(preset_names())
