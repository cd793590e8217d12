"""`granary status` after disks were lost: which node has gone for good, and why a replica was rebuilt."""

import shutil

from conftest import Server, create_users, record, wait_until


def test_lost_disks_are_told(tmp_path):
    with open(tmp_path / "server.log", "wb") as log:
        server = Server(tmp_path / "data", log).start()
        create_users(server.client("sagemaker"), "users", offline=False)
        runtime = server.client("sagemaker-featurestore-runtime")
        values = record(user_id="a", trips="1", event_time="2026-01-01T00:00:00Z")
        runtime.put_record(FeatureGroupName="users", Record=values)
        before = {node["address"]: node["node"] for node in server.granary("status")["nodes"]}
        assert len(before) == 3
        assert server.stop() == 0

        lost, emptied = server.data_dir / "node-3", server.data_dir / "node-2" / "sled"
        shutil.rmtree(lost)
        shutil.rmtree(emptied)
        server.start()

        def settled():
            nodes = server.granary("status")["nodes"]
            return nodes if len(nodes) == 4 and not any("error" in node for node in nodes) else None

        nodes = wait_until(settled, 60, "the successor in the catalog")
        (gone,) = [node for node in nodes if node.get("lost")]
        assert gone["node"] == before[gone["address"]]
        (successor,) = [node for node in nodes if node["node"] not in before.values()]
        assert (successor["address"], gone["address_taken_by_node"]) == (gone["address"], successor["node"])

        why = {replica["rebuilt_because"] for node in nodes for replica in node.get("replicas", [])
               if replica["shard"] != 0 and node["node"] not in (gone["node"], successor["node"])}
        assert why == {"", "the engine's directory was missing"}
        got = runtime.get_record(FeatureGroupName="users", RecordIdentifierValueAsString="a")
        assert got["Record"] == values
        assert server.stop() == 0
