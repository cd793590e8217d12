"""kill -9 under load, then what was acknowledged must be there: online by boto3, offline by another engine."""

import concurrent.futures
import pathlib
import threading

import deltalake
from botocore.exceptions import BotoCoreError, ClientError

from conftest import Server, create_users, record, wait_until

GROUP = "crash-users"
KEYS = 40
KILLS = 3


class Load:
    """Writers that remember what was acknowledged, and what may or may not have been written."""

    def __init__(self, server, group=GROUP):
        self.server = server
        self.group = group
        self.lock = threading.Lock()
        self.acknowledged = {}
        self.unknown = set()
        self.count = 0

    def run(self, worker, round_number, stop):
        runtime = self.server.client("sagemaker-featurestore-runtime", retries=1)
        number = 0
        while not stop.is_set():
            number += 1
            user, trips = f"{worker}-{number % KEYS}", f"{round_number + 1}{number:06d}"
            event_time = f"20{20 + round_number}-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}.{number:06d}Z"
            try:
                runtime.put_record(
                    FeatureGroupName=self.group,
                    Record=record(user_id=user, trips=trips, event_time=event_time),
                )
            except (BotoCoreError, ClientError):
                with self.lock:
                    self.unknown.add((user, trips))
                if stop.wait(0.01):
                    return
                continue
            with self.lock:
                self.acknowledged[(user, trips)] = event_time
                self.count += 1


def committed_rows(server):
    tables = list(pathlib.Path(server.data_dir).rglob("_delta_log"))
    rows = []
    for log in tables:
        if GROUP in str(log):
            try:
                table = deltalake.DeltaTable(str(log.parent))
            except deltalake.exceptions.TableNotFoundError:
                continue  # its directory is there, its first commit not yet
            table = table.to_pyarrow_table(columns=["user_id", "trips", "is_deleted"])
            rows += [(row["user_id"], str(row["trips"])) for row in table.to_pylist()]
    return rows


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path):
    with open(tmp_path / "server.log", "wb") as log:
        server = Server(tmp_path / "data", log).start()
        create_users(server.client("sagemaker"), GROUP)
        load = Load(server)
        for round_number in range(KILLS):
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                workers = [pool.submit(load.run, worker, round_number, stop) for worker in range(4)]
                goal = load.count + 200
                wait_until(lambda: load.count >= goal, 120, "200 acknowledged puts")
                server.kill()
                stop.set()
                for worker in workers:
                    worker.result()
            server.start()

        newest = {}
        for (user, trips), event_time in load.acknowledged.items():
            newest[user] = max(newest.get(user, ("", "")), (event_time, trips))
        maybe = {user: {trips for other, trips in load.unknown if other == user} for user in newest}
        runtime = server.client("sagemaker-featurestore-runtime")
        for user, (event_time, trips) in newest.items():
            answer = runtime.get_record(FeatureGroupName=GROUP, RecordIdentifierValueAsString=user)
            values = {value["FeatureName"]: value["ValueAsString"] for value in answer["Record"]}
            assert values["trips"] == trips or values["trips"] in maybe[user], (user, values, trips)
            assert values["event_time"] >= event_time

        acknowledged = set(load.acknowledged)
        wait_until(lambda: acknowledged <= set(committed_rows(server)), 60, "every acknowledged event offline")
        rows = committed_rows(server)
        assert len(rows) == len(set(rows)), "an event stands twice in the offline table"
        assert set(rows) <= acknowledged | load.unknown, "the offline table holds what nobody put"
        assert server.stop() == 0
