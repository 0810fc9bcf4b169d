"""A network of the tests' own: a namespace with a loopback interface and nothing else, no route to anywhere.

Container, stand-in for AWS and the test itself are in it together. So the container reaches the stand-in, and
nothing beside it: not the internet, not a service of this machine.
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
REQUEST = "16sh22x"  # struct ifreq: a name, flags


@dataclass(frozen=True)
class Cell:
    """A network namespace, kept by a descriptor; it is gone when nobody is in it and the descriptor is closed."""

    fd: int
    outside_fd: int  # the network that this process began in

    @property
    def path(self) -> str:
        """Where other programs find it, as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the cell for a while, and with it the processes and threads that it starts."""
        with _in_network(self.fd):
            yield

    @contextmanager
    def left(self) -> Iterator[None]:
        """This thread is outside for a while."""
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
    """A cell with its loopback interface up.

    Raises
    ------
    NotHereError
        If this process may not make network namespaces.
    """
    made: list[int | OSError] = []

    def make() -> None:  # in a thread of its own: this one stays where it is
        try:
            libc_call("unshare", CLONE_NEWNET)
            _bring_up_loopback()
            made.append(os.open(OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (fd,) = made
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
