"""Runs a command in a container, as `kubectl exec` does, and reads what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
import msgspec

from dbtrun.kube.errors import Forbidden, KubeError, NotFound, TooLarge, Unauthorized, Unreachable, short
from dbtrun.kube.library import ApiClient
from dbtrun.kube.paths import api_path
from dbtrun.text import natural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbtrun.kube.credentials import Credentials

PROTOCOL: Final = "v4.channel.k8s.io"
"""Every message begins with the number of its stream."""
STDOUT: Final = 1
STDERR: Final = 2
ENDED: Final = 3
"""The stream with the only message that says how the command ended."""
NOT_STARTED: Final = 126
"""The exit code by which a shell says that it could not start a command."""


class Place(NamedTuple):
    """A container of a pod."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


class Executed(NamedTuple):
    """How the command ended."""

    code: int
    out: bytes
    err: str


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: tuple[_Cause, ...] = ()


class _Status(msgspec.Struct):
    status: str = ""
    message: str = ""
    details: _Details | None = None


async def execute(credentials: Credentials, place: Place, argv: Sequence[str], *, limit: int) -> Executed:
    """Runs the command without a standard input. The caller limits how long that may take.

    A command whose connection is lost goes on: it must end by itself.

    Args:
        credentials: those of the API server.
        place: where it runs.
        argv: the command.
        limit: bytes that are read of what it prints.

    Raises:
        KubeError: it could not be run, or it printed more.
    """
    path = api_path("api/v1", place.namespace, "pods", place.pod, "exec")
    query = [("container", place.container), ("stdout", "1"), ("stderr", "1"), *(("command", each) for each in argv)]
    async with ApiClient(await credentials.read()) as client:
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        url = f"{client.configuration.host}{path}?{urlencode(query)}"
        session = client.rest_client.pool_manager
        try:
            async with session.ws_connect(
                url, protocols=[PROTOCOL], headers=headers, proxy=client.configuration.proxy, max_msg_size=limit
            ) as socket:
                return await _read(socket, limit)
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(error, place) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"No answer from {client.configuration.host}: {short(str(error))}") from error


async def _read(socket: aiohttp.ClientWebSocketResponse, limit: int) -> Executed:
    streams = {STDOUT: bytearray(), STDERR: bytearray(), ENDED: bytearray()}
    async for message in socket:
        if not isinstance(message.data, bytes) or not message.data:
            continue
        # Also streams that are not known are kept: they count against the limit.
        streams.setdefault(message.data[0], bytearray()).extend(message.data[1:])
        if sum(map(len, streams.values())) > limit:
            raise TooLarge(f"The command printed more than {limit} bytes.")
    if not streams[ENDED]:
        raise Unreachable("The connection was lost before the command had ended.")
    try:
        ended = msgspec.json.decode(bytes(streams[ENDED]), type=_Status)
    except msgspec.MsgspecError:
        raise Unreachable("The API server reported the end of the command in an unknown form.") from None
    # As kubectl reads it. A command that could not be started has no cause of this kind.
    causes = ended.details.causes if ended.details is not None else ()
    codes = (natural(each.message) for each in causes if each.reason == "ExitCode")
    code = 0 if ended.status == "Success" else next((code for code in codes if code is not None), NOT_STARTED)
    words = streams[STDERR].decode(errors="replace")
    return Executed(code, bytes(streams[STDOUT]), words or ended.message)


def _refused(error: aiohttp.WSServerHandshakeError, place: Place) -> KubeError:
    match error.status:
        case 401:
            return Unauthorized("The API server does not accept the credentials.")
        case 403:
            return Forbidden(f"You may not run commands in the pod {place}.")
        case 404:
            return NotFound(f"There is no pod {place.pod} in the namespace {place.namespace}.")
    return Unreachable(f"The API server does not run a command in the pod {place}: HTTP {error.status}.")
