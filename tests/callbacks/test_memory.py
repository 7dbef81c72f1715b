from hydralign import allocator
from hydralign.callbacks.memory import ReturnedMemory


def test_memory_goes_back_at_most_every_so_often(monkeypatch):
    times, calls = [0.0], []
    monkeypatch.setattr("hydralign.callbacks.memory.time.monotonic", lambda: times[0])
    monkeypatch.setattr(allocator, "return_small_pieces", lambda: calls.append(times[0]))
    callback = ReturnedMemory(every=10.0)
    hooks = [
        callback.on_train_batch_end,
        callback.on_validation_batch_end,
        callback.on_test_batch_end,
    ]
    for now in range(1, 36):
        times[0] = float(now)
        hooks[now % 3]()
    assert calls == [10.0, 20.0, 30.0]
