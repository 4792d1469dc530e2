"""What can be said of the container without Docker."""

import re
from importlib import metadata

import pytest
import yaml
from conftest import ROOT, python

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["triton", "door"])
def test_services_are_locked_down(name):
    service = COMPOSE["services"][name]
    assert service["user"] == "1000:1000" and service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert all((ROOT / volume.split(":")[0]).exists() for volume in service["volumes"])
    assert service.get("ports", []) == (["127.0.0.1:8000:8000"] if name == "door" else [])


def test_services_are_built_under_names_of_their_own():
    """Two that are built at once and give their image one name can fail."""
    services = COMPOSE["services"].values()
    assert [one["build"] for one in services] == [".", "."]
    assert len({one["image"] for one in services}) == 2


def test_no_client_can_load_models_and_triton_has_the_mendings_of_the_bulletins():
    """The last of them, 5875, asks for 26.07."""
    command = COMPOSE["services"]["triton"]["command"]
    assert "--model-control-mode=poll" in command and "--allow-http=false" in command
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert COMPOSE["services"]["triton"]["networks"] == ["inside"]
    release = re.search(r"FROM nvcr\.io/nvidia/tritonserver:([\d.]+)-py3", DOCKERFILE)[1]
    assert [int(part) for part in release.split(".")] >= [26, 7]


def objects(file: str) -> dict:
    """The objects of a file in `deploy/` by kind."""
    text = (ROOT / "deploy" / file).read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


POD = objects("deployment.yaml")["Deployment"]["spec"]["template"]["spec"]


def test_the_pod_is_locked_down():
    """The fields themselves were held against the schemas of Kubernetes 1.34 and KServe."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    runtime = objects("kserve.yaml")["ServingRuntime"]["spec"]
    triton, door = POD["containers"]
    assert "--grpc-address=127.0.0.1" in triton["command"]  # nobody but the door, in the same pod
    assert "--model-control-mode=poll" in triton["command"]
    assert "--model-control-mode=none" in runtime["containers"][0]["command"]
    for container in (triton, door, *runtime["containers"]):
        assert container["image"].startswith("REGISTRY/nano-cv:")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for container in (triton, runtime["containers"][0]):
        assert {"--allow-http=false", "--allow-metrics=false"} < {*container["command"]}
    assert POD["volumes"][0]["persistentVolumeClaim"]["claimName"] == "nano-cv-models"
    storage = objects("kserve.yaml")["InferenceService"]["spec"]["predictor"]["model"]["storageUri"]
    assert storage == "pvc://nano-cv-models"


def test_the_image_for_a_cluster_has_the_files_that_compose_mounts():
    mounted = {volume.split(":")[0] for volume in COMPOSE["services"]["door"]["volumes"]}
    copied = re.findall(r"^COPY (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    kept = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert {f"./{one}" for one in copied} == mounted
    assert {f"!{one}" for one in copied} < {*kept}


DOORS = [COMPOSE["services"]["door"], POD["containers"][1]]


@pytest.mark.parametrize("command", [door["command"] for door in DOORS])
def test_the_front_door_finds_its_settings(tmp_path, command):
    """Its command is one that serve.py takes, and it then looks for that server."""
    settings = [*command[2:], f"hydra.run.dir={tmp_path}", "port=0"]
    done = python("serve.py", *settings[:-1], "--cfg=job", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "triton: triton:8001" in done.stdout or "triton: 127.0.0.1:8001" in done.stdout


# serve.py's imports, where only some packages can be found, as if no other were installed.
IMPORTED = """
import sys
from importlib import metadata

installed = set(sys.argv[1].split())
packages = metadata.packages_distributions()

class Hidden:
    def find_spec(self, name, path=None, target=None):
        names = {one.lower().replace("_", "-") for one in packages.get(name.partition(".")[0], [])}
        if names and not names & installed:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Hidden())
import serve
from nano_cv.config import cli
from nano_cv.serving import service
print("all is there")
"""


def test_everything_that_the_front_door_imports_is_installed():
    """By the Dockerfile, or by what that brings along."""
    installed, new = set[str](), re.findall(r'"([a-z-]+)(?:\[\w+\])?[>=]', DOCKERFILE)
    here = {one.name.lower().replace("_", "-") for one in metadata.distributions()}
    assert len(new) > 10
    while new:
        name = new.pop().replace("_", "-")
        if name in here - installed:  # others are for another platform or Python
            installed.add(name)
            for one in metadata.requires(name) or []:
                if "extra" not in one or (name == "tritonclient" and "grpc" in one):
                    new.append(re.match(r"[A-Za-z0-9._-]+", one)[0].lower())
    installed.add("pi-heif")  # an extra, which is asked for in another way
    done = python("-c", IMPORTED, " ".join(installed), cwd=ROOT)
    assert "all is there" in done.stdout, done.stderr
