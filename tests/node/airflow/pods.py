"""The pods of an Airflow with KubernetesExecutor, as its official chart would make them."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.airflow.stack import FAST
from tests.node import official
from tests.node.official import Json

DAGS: Final = Path(__file__).parent / "dags"
HOME: Final = "/opt/airflow"
API_PORT: Final = 8080
SCHEDULER, WORKER, TRIGGERER = "airflow-scheduler", "airflow-worker", "airflow-triggerer"
"""ServiceAccounts."""
COMMON, DATABASE, FILES = "airflow-common", "airflow-database", "airflow-files"
"""Secrets with the environment of all pods, and with the database; the ConfigMap of DAGs and the workers' template."""
WORKERS: Final = 4
"""How many worker pods there are at once: each imports Airflow, which takes a processor some seconds."""
LAUNCHER: Final = [
    {
        "apiGroups": [""],
        "resources": ["pods"],
        "verbs": ["create", "list", "get", "patch", "watch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
"""What the scheduler may do, to start workers."""


class Pods:
    """The manifests. Nothing here talks to anybody.

    Args:
        namespace: where they run.
        image: Airflow's, with its tag.
        values: of Airflow's chart.
        database: the address of the metadata database, for SQLAlchemy.
    """

    def __init__(self, namespace: str, image: str, values: Mapping[str, Any], database: str) -> None:
        self.namespace, self.image, self.values, self.database = namespace, image, values, database
        self._fernet_key = urlsafe_b64encode(secrets.token_bytes(32)).decode()

    def before(self) -> list[Json]:
        """Accounts, rights, and what the pods share."""
        files = {path.name: path.read_text() for path in DAGS.glob("*.py")}
        files["worker.yaml"] = yaml.safe_dump(self._worker())
        return [
            *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in ACCOUNTS),
            _object("rbac.authorization.k8s.io/v1", "Role", "pod-launcher", rules=LAUNCHER),
            _object(
                "rbac.authorization.k8s.io/v1",
                "RoleBinding",
                "pod-launcher",
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pod-launcher"},
                subjects=[{"kind": "ServiceAccount", "name": SCHEDULER, "namespace": self.namespace}],
            ),
            _object("v1", "Secret", DATABASE, stringData={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database}),
            _object("v1", "ConfigMap", FILES, data=files),
        ]

    def common(self, api_server: str) -> Json:
        """The environment of every pod.

        Args:
            api_server: the IP address of the API server's pod; until it is known, anything.
        """
        repository, _, tag = self.image.rpartition(":")
        ours = {
            "CORE__EXECUTOR": "KubernetesExecutor",
            "CORE__PARALLELISM": str(WORKERS),
            "CORE__DAGS_FOLDER": f"{HOME}/dags",
            "CORE__FERNET_KEY": self._fernet_key,
            "CORE__EXECUTION_API_SERVER_URL": f"http://{api_server}:{API_PORT}/execution/",
            "API__HOST": "0.0.0.0",  # noqa: S104 - in a pod
            "API__PORT": str(API_PORT),
            "API__BASE_URL": f"http://{api_server}:{API_PORT}",
            "KUBERNETES_EXECUTOR__NAMESPACE": self.namespace,
            "KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": f"{HOME}/worker.yaml",
            "KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": repository,
            "KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": tag,
            "KUBERNETES_EXECUTOR__WORKER_PODS_CREATION_BATCH_SIZE": str(WORKERS),
        }
        data = {f"AIRFLOW__{key}": value for key, value in (FAST | ours).items()}
        return _object("v1", "Secret", COMMON, stringData=data)

    def migration(self) -> Json:
        """The Job that makes the database's tables."""
        spec = self._spec("default", self._container("migration", ["airflow", "db", "migrate"]))
        template = {"spec": spec | {"restartPolicy": "Never"}}
        return _object("batch/v1", "Job", "airflow-migration", spec={"template": template, "backoffLimit": 0})

    def part(self, name: str, account: str = "default") -> Json:
        """The pod of one of Airflow's commands."""
        return _object(
            "v1", "Pod", f"airflow-{name}", spec=self._spec(account, self._container(name, ["airflow", name]))
        )

    def triggerer(self) -> Json:
        """The StatefulSet of the triggerer, with the watcher as its sidecar."""
        wait = ["airflow", "db", "check-migrations", "--migration-wait-timeout=60"]
        return official.triggerer(
            self.values,
            TRIGGERER,
            self._container("triggerer", ["airflow", "triggerer"]),
            init=[self._container("wait-for-airflow-migrations", wait)],
            volumes=VOLUMES,
        )

    def _worker(self) -> Json:
        container = self._container("base", [], database=False)
        spec = self._spec(WORKER, container) | {"restartPolicy": "Never"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "placeholder"}, "spec": spec}

    def _spec(self, account: str, container: Json) -> Json:
        return {
            "serviceAccountName": account,
            # The values are the triggerer's; a namespace that wants them of it wants them of every pod.
            "securityContext": official.pod_security(self.values, "triggerer"),
            "containers": [container],
            "volumes": VOLUMES,
        }

    def _container(self, name: str, args: list[str], *, database: bool = True) -> Json:
        """A worker has no database: tasks ask the API server."""
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "Never",
            "args": args,
            "envFrom": [{"secretRef": {"name": each}} for each in (COMMON, DATABASE)[: 2 if database else 1]],
            "securityContext": official.CONTAINER_SECURITY,
            "volumeMounts": [
                {"name": "logs", "mountPath": f"{HOME}/logs"},
                *({"name": "files", "mountPath": f"{HOME}/dags/{path.name}", "subPath": path.name} for path in FOUND),
                {"name": "files", "mountPath": f"{HOME}/worker.yaml", "subPath": "worker.yaml"},
            ],
        }


ACCOUNTS: Final = (SCHEDULER, WORKER, TRIGGERER)
FOUND: Final = sorted(DAGS.glob("*.py"))
VOLUMES: Final[list[Json]] = [
    {"name": "logs", "emptyDir": {}},
    {"name": "files", "configMap": {"name": FILES}},
]


def _object(version: str, kind: str, name: str, **more: Any) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}
