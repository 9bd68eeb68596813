"""Every limit of the wire (PROTOCOL sections 2 and 3), each with its reason. Sizes in bytes, times in ms.

A sender refuses what a receiver would refuse, so that a limit shows where it is crossed.
"""

from __future__ import annotations

from llama_gossip.protocol.messages import Kind

# --- numbers and fixed fields --------------------------------------------------------------------

MAX_U32 = 2**32 - 1  # token ids and attempts: no vocabulary and no retry count is larger
MAX_U64 = 2**64 - 1  # all other numbers: the largest msgpack unsigned integer
KEY_BYTES = 32  # ed25519 and X25519 public keys
SIGNATURE_BYTES = 64
DIGEST_BYTES = 32  # BLAKE2b-256 and sha256
REQUEST_ID_BYTES = 16  # 128 random bits never meet by chance within one requester
HEARD_ID_BYTES = 8  # enough of a signer's key to tell itself apart in `heard`

# --- sizes -----------------------------------------------------------------------------------------

MAX_CONTROL_BYTES = 3_584  # kinds 1-4: one gossip message stays well under the 4 KiB default of the stack
MAX_TOPIC_BYTES = (
    60_000  # public Request, Packet: below the topic's 65 536 with room for the overlay's header
)
MAX_FRAME_BYTES = 64 * 1024  # a frame is a batch of tokens; what waits for one peer stays small
MAX_ASSIGN_BYTES = 1024 * 1024 + 4096  # 1 MiB of prompt, and the rest of the Assign
LENGTH_PREFIX_BYTES = 4  # u32 big-endian in front of every item of a stream
ENVELOPE_OVERHEAD_BYTES = 106  # all but the payload, whose header has 3 bytes from 256 B to 64 KiB

# --- a reader that does not read ---

MAX_UNREAD_BYTES = 1024 * 1024  # of one answer, released and not read: then its stream and timers pause
MAX_UNWRITTEN_BYTES = 256 * 1024  # of one stream, at its writer: then its job is parked (native: HIGH_WATER)
NOT_READ = "not_read"  # the code of the Error of a job that was parked for too long
UNREAD_TOKEN_BYTES = 64  # a token's price beside its text: a thousand short ones are no smaller in memory

# --- gossip delivery -----------------------------------------------------------------------------------

SEAL_ID_BYTES = 8  # enough of a prekey to tell a worker's few apart
PAD_BYTES = 256  # a body's length tells no more than its rounded size
MAX_BODY_BYTES = 59_648  # before sealing: the largest multiple of PAD_BYTES that a Packet of 60 000 B carries
MAX_GOSSIP_ITEM_BYTES = 59_640  # an item's length prefix and the zero length that ends a body come on top
TOO_BIG_FOR_GOSSIP = "too_big_for_gossip"  # the code of an Assign over it
MAX_CHANNELS = 1_024  # attempts over gossip that a node takes part in, those that ended lately included
MAX_CHANNELS_PER_PEER = 128  # that one requester may make a node hold: its running and queued jobs, twice
MAX_AHEAD_ITEMS = 256  # frames kept that came before an earlier one
MAX_AHEAD_BYTES = 262_144

# --- structure: what msgpack may look like before anything is built from it --------------------------

HEAD_BYTES = 32  # array header (5) and boot, seq, ts at their widest (3 x 9): read before the signature
MAX_DEPTH = 6  # the payload is 1; the deepest message of version 1 has 5
MAX_ARRAY = 64  # any array that has no limit of its own below: groups and their later growth
MAX_TOKEN_ARRAY = 256  # tokens in one frame: sixteen times what coalescing makes of a fast model
MAX_CHAT_MESSAGES = 4_096  # longer than any conversation that fits a context
MAX_TOKEN_IDS = 262_144  # ids of a prompt or a resume: the largest contexts of today's models

# --- fields ------------------------------------------------------------------------------------------

MAX_NAME_BYTES = 40  # node and model names in an Announce: one column of a table
MAX_ANNOUNCED_MODELS = 32  # what fits a control message with names of usual length
MAX_ADDRESSES = 8  # in an Announce: bounds the dials that one signed message can cause
MAX_FEATURES = 16  # in an Announce: room for roles, the version and a few capabilities
MAX_FEATURE_BYTES = 24
CONVERSATION_MARK_BYTES = 8  # two conversations of one requester meet by chance once in ten thousand years
MAX_CONVERSATION_MARKS = 16  # in an Announce: 160 bytes, half of what a worker's prefix cache keeps
MAX_HEARD = 3  # samples of what a node hears: enough to find a mute link within a minute
MAX_PRIORITY = 9  # one digit; 9 is the most urgent
MAX_LOGPROBS = 20  # alternatives a token, as common interfaces offer
MAX_ERROR_BYTES = 256  # one sentence
MAX_STOP_STRINGS = MAX_ARRAY

# --- acceptance on the topic ---------------------------------------------------------------------------

MAX_AGE_MS = 60_000  # ts may lie this far back: slow paths and clocks that are a little off
MAX_AHEAD_MS = 30_000  # ts may lie this far ahead: clocks that are a little off
WINDOW_BITS = 1_024  # how far seq may come out of order; more than any signer sends in MAX_AGE_MS
FORGET_SIGNER_MS = 120_000  # > MAX_AGE_MS + MAX_AHEAD_MS: what is replayed later fails on its ts
MAX_SIGNERS = 4_096  # windows of 128 B: half a megabyte at most
KNOWN_SIGNERS_RESERVE = MAX_SIGNERS // 4  # minted keys can never crowd out the peers we know
NEW_SIGNERS_PER_NEIGHBOUR = 64  # a minute: one neighbour needs most of an hour to fill the table
NEW_SIGNERS_PERIOD_MS = 60_000
NEWCOMER_MS = 60_000  # of an open network: longer than a minted key is worth, shorter than anybody minds
MAX_SKEW_SAMPLES = 1_024  # signers whose clock is compared with ours: the median needs no more
MAX_NEIGHBOURS = 256  # whose budgets are kept; the overlay has ten or so at a time

GOSSIP_CAPS: dict[Kind, int] = {
    Kind.ANNOUNCE: MAX_CONTROL_BYTES,
    Kind.LEAVE: MAX_CONTROL_BYTES,
    Kind.REQUEST: MAX_TOPIC_BYTES,  # MAX_CONTROL_BYTES unless it is public, known only after decoding
    Kind.CLAIM: MAX_CONTROL_BYTES,
    Kind.PACKET: MAX_TOPIC_BYTES,
}
