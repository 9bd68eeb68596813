"""Mutants of gossip delivery: the seal, the lease, the pace, whose Packet it is."""

from __future__ import annotations

from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutant import of_the_core as _mutant

_APART = ("apart", "loss", "reorder", "duplicates")

OF_DELIVERY: tuple[Mutant, ...] = (
    # --- who may read ---
    _mutant(
        "sealed_packets",
        "tunnel",
        "            channel.seal = Seal(channel.prekey[:SEAL_ID_BYTES], channel.epk)\n"
        "            channel.seal_keys = SealKeys(channel.dh,",
        "            assert SealKeys(channel.dh,",
        rule="what is not public is sealed",
        oracle="I13",
    ),
    _mutant(
        "seal_secret",
        "seal",
        'bound = b"".join((dh, epk, prekey,',
        'bound = b"".join((b"", epk, prekey,',
        rule="the key is made of a secret that only the two share",
        oracle="I13",
    ),
    _mutant(
        "seal_binding",
        "seal",
        "        return self.requester, self.worker",
        "        return bytes(32), bytes(32)",
        rule="a seal is bound to its parties",
        oracle="I13",
        focus=("apart", "copy"),
    ),
    _mutant(
        "seal_nonce",
        "seal",
        '    return head.boot.to_bytes(8, "big") + head.seq.to_bytes(8, "big") + bytes(8)',
        "    return bytes(24)",
        rule="no key meets a nonce twice",
        oracle="I13",
        focus=_APART,
    ),
    # --- who may speak ---
    _mutant(
        "packet_parties",
        "envelope",
        "    return packet.requester in (sender, packet.to) and sender != packet.to",
        "    return True",
        rule="a Packet comes from one of its two parties",
        oracle="I6",
        focus=("apart", "copy"),
    ),
    # --- for how long ---
    _mutant(
        "gossip_lease",
        "tunnel",
        '                self._deliver(ev.StreamLost(stream, "the requester was not heard',
        '                str(ev.StreamLost(stream, "the requester was not heard',
        rule="a worker computes no longer than the lease for who is not heard of",
        oracle="I5",
        focus=("apart", "crash", "slow", "pause"),
    ),
    _mutant(
        "ack_monotonicity",
        "tunnel_repair",
        "        if not self.base <= next_n <= self.next_n:",
        "        if not next_n <= self.next_n:",
        rule="an Ack counts only if it is not lower than those before",
        oracle="I6",
        focus=_APART,
    ),
    _mutant(
        "accept_by",
        "worker",
        "        on_time = self._desk.now.wall_ms <= assign.accept_by",
        "        on_time = True",
        rule="an Assign that was held back starts no work",
        oracle="I10",
        focus=("apart", "pause"),
    ),
    # --- how much ---
    _mutant(
        "packet_pace",
        "tunnel_sender",
        "        channel.next_mono_ms = now_ms + gap_ms",
        "        channel.next_mono_ms = now_ms + 0 * gap_ms",
        rule="an attempt sends no more than eight Packets a second",
        oracle="I12",
        focus=("apart",),
    ),
    _mutant(
        "packet_rate",
        "tunnel",
        '        in_number = self._rates.take((whose, "packets"), PACKETS_EACH, now_ms)',
        "        in_number = True",
        rule="a signer makes nobody open more than ten Packets a second",
        oracle="I12",
        focus=("flood",),
    ),
)
