"""The commands of the documentation, taken out of it and run as they stand."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from pathlib import Path

from tests.controlplane import ControlPlane, helm_path, kubectl_path
from tests.stack.site import ROOT


def section(document: str, title: str) -> str:
    """The text under a heading, up to the next of its kind."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, f"{document} has no section {title!r}"
    return found[1]


def introduction(document: str) -> str:
    """The text before the first of these headings."""
    return (ROOT / document).read_text().partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, also those in lists, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def commands(text: str) -> list[str]:
    """What stands behind the prompts of its console blocks: a line, what continues it, and a here-document."""
    typed = re.compile(r"^\$ ((?:.*\\\n)*.*?<<'(\w+)'\n(?:.*\n)*?\2$|(?:.*\\\n)*.*)$", re.MULTILINE)
    return [found[0].strip() for block in blocks(text, "console") for found in typed.findall(block)]


class Terminal:
    """A shell with kubectl and helm, at the root of what looks like a checkout."""

    def __init__(self, plane: ControlPlane, folder: Path, namespace: str = "default") -> None:
        """`namespace` is the one for commands that name none."""
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        (programs / "kubectl").symlink_to(kubectl_path())
        (programs / "helm").symlink_to(helm_path())
        for name in ("helm", "deploy"):
            (folder / name).symlink_to(ROOT / name)
        config = json.loads(plane.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = namespace
        (folder / "kubeconfig").write_text(json.dumps(config))
        env = {"HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig")}
        self._env = {"PATH": f"{programs}:/usr/bin:/bin", **env}

    async def run(self, command: str, seconds: float = 180) -> str:
        """What the command prints.

        Raises:
            AssertionError: it failed, or did not end in time.
        """
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, cwd=self.folder, env=self._env, stdin=nothing, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(seconds):
                output, errors = await process.communicate()
        except TimeoutError:
            process.kill()
            raise AssertionError(f"{command} did not end in {seconds:g} s") from None
        assert process.returncode == 0, f"{command}\n{output.decode()}\n{errors.decode()}"
        return output.decode() + errors.decode()
