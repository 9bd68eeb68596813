"""The rendezvous directory: one host, one user, no flag."""

from __future__ import annotations

import os

import pytest
from helpers import DIAL_MS, TOPIC, Peer, full_mesh, script, until

from llama_gossip import _native as native


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rendezvous"


def entries(folder):
    """The files in it, but those that are being written."""
    return [path for path in folder.iterdir() if path.suffix != ".tmp"] if folder.exists() else []


def test_nodes_of_one_folder_find_each_other(make, folder):
    first = make(rendezvous_dir=str(folder)).join()
    second = make(rendezvous_dir=str(folder)).join()
    full_mesh(first, second)
    found = first.event(native.EVENT_PEER_FOUND, second.id)
    assert found[2] == second.node.addresses
    second.event(native.EVENT_PEER_FOUND, first.id)


WORKER = """
peer = Peer(rendezvous_dir=sys.argv[1]).bind().join()
say(peer.id.hex())
until(lambda: False, peer, deadline_s=60)
"""


def test_two_processes_find_each_other_and_a_killed_one_is_gone(make, folder):
    here = make(rendezvous_dir=str(folder)).join()
    with script(WORKER, str(folder)) as worker:
        node_id = bytes.fromhex(worker.line())
        here.until(lambda: here.node.neighbors() == [node_id])
        here.event(native.EVENT_PEER_FOUND, node_id)
        assert len(entries(folder)) == 2
        worker.process.kill()
        worker.process.wait()
        here.event(native.EVENT_PEER_GONE, node_id)
    here.until(lambda: len(entries(folder)) == 1)


def test_files_are_private_and_removed_at_close(make, folder):
    node = make(rendezvous_dir=str(folder)).join()
    (entry,) = node.until(lambda: entries(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert entry.stat().st_mode & 0o777 == 0o600
    assert TOPIC.hex() not in entry.name + entry.read_text(), "the topic admits to the network"
    node.close()
    assert list(folder.iterdir()) == []


def test_other_topics_and_rubbish_in_the_folder_are_ignored(make, folder):
    one = make(rendezvous_dir=str(folder)).join(topic=bytes(32))
    two = make(rendezvous_dir=str(folder)).join(topic=bytes([1]) * 32)
    one.until(lambda: len(entries(folder)) == 2)
    (name,) = (path.name for path in folder.iterdir() if path.name.endswith(one.id.hex()))
    prefix = name[:33]
    forged = os.urandom(32).hex()
    (folder / (prefix + forged)).write_text("rubbish")
    (folder / (prefix + two.id.hex())).write_text((folder / name).read_text())
    os.mkfifo(folder / (prefix + native.public_key(bytes(32)).hex()))
    (folder / (prefix + native.public_key(bytes([1]) * 32).hex())).symlink_to("/etc/passwd")
    three = make(rendezvous_dir=str(folder)).join(topic=bytes(32))
    full_mesh(one, three)
    one.event(native.EVENT_PEER_FOUND)
    assert [event[1] for event in one.of(native.EVENT_PEER_FOUND)] == [three.id]
    assert not two.of(native.EVENT_PEER_FOUND)


def test_a_removed_entry_is_written_again(make, folder):
    node = make(rendezvous_dir=str(folder)).join()
    for path in node.until(lambda: entries(folder)):
        path.unlink()
    node.until(lambda: entries(folder))


def test_a_node_that_closes_right_after_joining_leaves_no_entry(folder):
    for _ in range(150):  # a race of the two: one in five lost it
        node = Peer(rendezvous_dir=str(folder)).bind().join()
        node.close()
        assert list(folder.iterdir()) == []


def test_a_folder_that_others_can_read_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(native.ConfigError) as caught:
        native.Node(secret_key=os.urandom(32), rendezvous_dir=str(tmp_path))
    assert "rendezvous_dir" in str(caught.value)


def test_found_addresses_are_dialled(make, folder):
    first = make(rendezvous_dir=str(folder)).join()
    second = make(rendezvous_dir=str(folder)).join()
    until(lambda: first.of(native.EVENT_PEER_FOUND), first, second)
    first.done(first.node.open(second.id, DIAL_MS))
