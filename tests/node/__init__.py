"""A real node for tests: Pods of the control plane run, in namespaces that leave nothing behind."""

from tests.node.node import Node, NodeError

__all__ = ["Node", "NodeError"]
