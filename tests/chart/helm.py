"""helm as users call it, with a home of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.controlplane import Completed, helm_path
from tests.controlplane.components import COLLECTED_SELDOM
from tests.patience import patience

if TYPE_CHECKING:
    from tests.controlplane import ControlPlane

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm/dbtrun"
VALUES: Final = Path(__file__).parent / "values"


class Helm:
    """Runs helm; none of its files leave `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def run(self, *args: str, plane: ControlPlane | None = None, input: str | None = None) -> Completed:  # noqa: A002
        cluster = [f"--kubeconfig={plane.kubeconfig}"] if plane else []
        answer = subprocess.run(
            [helm_path(), *args, *cluster],
            input=input,
            env={"HOME": str(self._home), **COLLECTED_SELDOM},
            capture_output=True,
            text=True,
            timeout=patience(120),
            check=False,
        )
        return Completed(answer.returncode, answer.stdout, answer.stderr)

    def template(self, *args: str) -> str:
        answer = self.run("template", "dbtrun", str(CHART), "--namespace=dbtrun-system", *args)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def files(self, *values: dict[str, Any]) -> list[Path]:
        """Files of values; the later ones go before the earlier ones."""
        written = [self._home / f"values-{number}.yaml" for number in range(len(values))]
        for path, each in zip(written, values, strict=True):
            path.write_text(yaml.safe_dump(each))
        return written

    def objects(self, *args: str) -> list[dict[str, Any]]:
        return documents(self.template(*args))

    def deployment(self, *args: str) -> dict[str, Any]:
        (found,) = (each for each in self.objects(*args) if each["kind"] == "Deployment")
        return found

    def notes(self, *args: str) -> str:
        """What `helm install` would print at its end."""
        where = ("--dry-run=client", "--namespace=dbtrun-system")
        answer = self.run("install", "dbtrun", str(CHART), *where, *args)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.partition("\nNOTES:\n")[2]

    def install(self, plane: ControlPlane, *args: str) -> str:
        answer = self.run("install", "dbtrun", str(CHART), "--namespace=dbtrun-system", *args, plane=plane)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def uninstall(self, plane: ControlPlane) -> None:
        answer = self.run("uninstall", "dbtrun", "--namespace=dbtrun-system", plane=plane)
        assert answer.returncode == 0, answer.stderr


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest. In Python alone, to parse the CRDs takes five times as long as to render them."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def chart_of(folder: Path, manifest: dict[str, Any]) -> Path:
    """Writes a chart with one object, named after its folder."""
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": folder.name, "version": "0.1.0"}))
    (folder / "templates/object.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def env_of(deployment: dict[str, Any]) -> dict[str, str | None]:
    """The environment of the watcher's container; None where the value comes from elsewhere."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value") for each in container["env"]}
