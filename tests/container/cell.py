"""A network for the tests alone: a namespace with a loopback interface, and no route to anywhere.

The container, the stand-in for AWS and the test itself are in the namespace. So the container reaches the stand-in and
nothing else: neither the internet nor a service of this machine.
"""

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.container.built_image import CLONE_NEWNET, NotHereError, libc_call

OWN_NETWORK = "/proc/thread-self/ns/net"
GET_FLAGS, SET_FLAGS = 0x8913, 0x8914  # SIOCGIFFLAGS, SIOCSIFFLAGS
IS_UP = 0x1
REQUEST = "16sh22x"  # struct ifreq with a name and flags


@dataclass(frozen=True)
class Cell:
    """A network namespace, held by a descriptor. It ends once the descriptor is closed and no thread is in it."""

    fd: int
    outside_fd: int  # the network in which this process started

    @property
    def path(self) -> str:
        """The path by which other programs can open the namespace while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread into the cell for the block; processes and threads that it starts are in the cell, too."""
        with _in_network(self.fd):
            yield

    @contextmanager
    def left(self) -> Iterator[None]:
        """Move this thread out of the cell for the block."""
        with _in_network(self.outside_fd):
            yield


@contextmanager
def _in_network(fd: int) -> Iterator[None]:
    before = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc_call("setns", fd, CLONE_NEWNET)
        yield
    finally:
        libc_call("setns", before, CLONE_NEWNET)
        os.close(before)


@contextmanager
def new_cell() -> Iterator[Cell]:
    """Make a cell whose loopback interface is up.

    Raises
    ------
    NotHereError
        If this process is not allowed to make network namespaces.
    """
    results: list[int | OSError] = []

    def make() -> None:  # runs in another thread, so that this thread stays in its network
        try:
            libc_call("unshare", CLONE_NEWNET)
            _bring_up_loopback()
            results.append(os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (fd,) = results
    if isinstance(fd, OSError):
        raise NotHereError(f"a network namespace cannot be made here ({fd}): run the tests with CAP_SYS_ADMIN")
    outside_fd = os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Cell(fd, outside_fd)
    finally:
        os.close(fd)
        os.close(outside_fd)


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, GET_FLAGS, struct.pack(REQUEST, b"lo", 0))
        _, flags = struct.unpack(REQUEST, answer)
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack(REQUEST, b"lo", flags | IS_UP))
