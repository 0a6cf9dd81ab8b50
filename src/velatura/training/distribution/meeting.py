"""Where the processes of one attempt of a run find each other."""

from __future__ import annotations

import os
import secrets
import socket
import time
from datetime import timedelta

from torch.distributed import DistStoreError, Store, TCPStore  # type: ignore[attr-defined]

KEY = "velatura/meeting"
POLL = 0.5  # seconds


def store_for(rank: int, size: int, timeout: timedelta) -> Store:
    """The store at which all processes of this attempt meet. Raises a RuntimeError when they do not within `timeout`.

    torchrun's store outlives a restart, together with the addresses that the last attempt left in it, which a quick
    process would read before they are replaced. So process 0 opens a store for its attempt and leaves its address
    there; the others look again until one answers at it.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return TCPStore(host, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False)
    shared = TCPStore(host, port, is_master=False, timeout=timeout)
    if rank == 0:
        own = TCPStore(host, 0, size, is_master=True, timeout=timeout, wait_for_workers=False)
        word = secrets.token_hex(8)
        own.set(KEY, word)
        shared.set(KEY, f"{own.port} {word}")
        return own
    ends = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < ends:
        own_port, word = shared.get(KEY).decode().split()
        if _answers(host, int(own_port)):
            store = TCPStore(host, int(own_port), is_master=False, timeout=timeout)
            if store.get(KEY).decode() == word:
                return store
        time.sleep(POLL)
    raise DistStoreError("process 0 did not come")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=POLL).close()
    except OSError:
        return False
    return True
