"""Machines, as far as a network goes: namespaces with an address of their own, on a bridge of this machine."""

import os
import shutil
import subprocess
from itertools import count

_networks = count()

# The other end of a namespace's link, in the namespace.
INTERFACE = "eth0"


class Network:
    """A bridge, with an address of this machine's own on it; needs Linux and its administrator's rights.

    Attributes:
        address: of this machine.
    """

    def __init__(self) -> None:
        # Of those that RFC 1918 leaves to everyone, four for each process that runs tests.
        number = next(_networks)
        block = 4 * os.getpid() + number % 4
        self._prefix = f"10.{200 + block // 250 % 50}.{block % 250}"
        self._name = f"t{os.getpid()}x{number}"
        self._numbers = count(2)
        self._namespaces: list[str] = []
        self.address = f"{self._prefix}.1"
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    @staticmethod
    def possible() -> bool:
        if shutil.which("ip") is None:
            return False
        name = f"t{os.getpid()}"
        try:
            _ip("netns", "add", name)
            _ip("netns", "del", name)
            _ip("link", "add", name, "type", "bridge")
            _ip("link", "del", name)
        except subprocess.CalledProcessError:
            return False
        return True

    def machine(self) -> tuple[str, list[str]]:
        """A new one: its address, and what a command begins with to run there."""
        number = next(self._numbers)
        name, address = f"{self._name}n{number}", f"{self._prefix}.{number}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        _ip("link", "add", name, "master", self._name, "type", "veth", "peer", INTERFACE, "netns", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
        for link in ("lo", INTERFACE):
            _ip("-n", name, "link", "set", link, "up")
        return address, ["ip", "netns", "exec", name]

    def close(self) -> None:
        for name in self._namespaces:
            _ip("netns", "del", name)
        _ip("link", "del", self._name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
