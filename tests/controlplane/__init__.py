"""A real Kubernetes control plane for tests and the demo.

A fake API server proves nothing about RBAC, CEL, watches or conflicts, and a cluster on a laptop needs containers. So
etcd, kube-apiserver and kube-controller-manager run as plain processes on free loopback ports. There is no kubelet:
Pods stay Pending.
"""

from tests.controlplane.build import helm_path, kubeconform_path, kubectl_path
from tests.controlplane.errors import BuildError, CommandError, ControlPlaneError
from tests.controlplane.plane import Completed, ControlPlane

__all__ = [
    "BuildError",
    "CommandError",
    "Completed",
    "ControlPlane",
    "ControlPlaneError",
    "helm_path",
    "kubeconform_path",
    "kubectl_path",
]
