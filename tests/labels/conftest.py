"""A store with a few items, and a server of it in this process."""

import threading
from contextlib import contextmanager

import pytest
import uvicorn

from hydralign.labels.samples import Sample
from hydralign.labels.store import LabelStore
from hydralign.web.guard import Guard
from hydralign.web.server import listen


def samples(n, k=3):
    """n prompts with k responses each."""
    return [Sample(f"prompt {i}", tuple(f"response {i}.{j}" for j in range(k))) for i in range(n)]


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    made = LabelStore(tmp_path / "labels.sqlite", clock)
    yield made
    made.close()


@contextmanager
def served(app, *, token=None, port=0):
    """Serve an app on this machine, on a free port if none is named; gives its address."""
    with listen("127.0.0.1", port) as listener:
        guarded = Guard(app, host="127.0.0.1", token=token)
        config = uvicorn.Config(guarded, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
