"""A short run of the wire's fuzzer on a fresh seed; `fuzz.py` runs for as long as one likes."""

import random

import fuzz
from conftest import Server


def test_no_request_crashes_the_process_and_none_that_is_refused_changes_anything(tmp_path):
    seed = random.randrange(10**6)
    print(f"python tests/sagemaker/fuzz.py --seed {seed} --requests 3000")
    log = tmp_path / "server.log"
    with open(log, "wb") as out:
        server = Server(tmp_path / "data", out).start()
        try:
            fuzz.run(fuzz.Target(server.endpoint), seed, 3_000, lambda: server.process.poll() is None)
            assert server.ready()
        finally:
            server.stop()
    assert "panicked" not in log.read_text()
