//! The shard protocol: what client and server say to each other over one bidirectional gRPC stream.
//!
//! Lives here: the handshake, the names of the methods and the bounds of everything. `frame` puts frames into messages,
//! `call` is the list of requests, `check` refuses what cannot be right before a shard sees it. docs/format/wire.md has the
//! bytes. Not here: connections (`client`, `server`).

use cortex_shard_api::{ShardError, ShardId, report::OperatorCounts};
use serde::{Deserialize, Serialize};

/// Requests.
pub(crate) mod call;

/// What of a request can be judged without a shard.
pub(crate) mod check;

/// gRPC messages as plain bytes.
pub(crate) mod codec;

/// Frames and the messages that carry them.
pub(crate) mod frame;

/// Version of everything in this folder and of the serialized types of `shard-api`. Both sides must have the same.
pub const VERSION: u32 = 2;

/// The gRPC method of the stream.
pub(crate) const CONNECT_PATH: &str = "/cortexdb.Shard/Connect";

/// A frame: as much as the largest statement that a gateway accepts, and its rows as a shard stores them.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// Frames are gathered into one message until it is so large; a larger frame has a message of its own.
pub(crate) const MESSAGE_BYTES_TARGET: usize = 256 << 10;

/// What either side accepts as one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + MESSAGE_BYTES_TARGET + 1024;

/// Table descriptors that a connection remembers; then it forgets all and begins again. More than a working set, a few
/// megabytes.
pub(crate) const TABLES_MAX: usize = 2048;

/// The first message of a client. `protocol` comes first in every version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub protocol: u32,
    pub cluster: String,
    pub shard: ShardId,
    /// Who calls, for logs.
    pub caller: String,
}

/// The first message of a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// What tickets for `DoGet` name.
    Accepted {
        session: u64,
    },
    Refused(Refusal),
}

/// Why a server does not talk to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error(
        "it speaks version {ours} of the shard protocol, not {VERSION}: run the same release on all nodes"
    )]
    Protocol { ours: u32 },
    #[error("it belongs to another cluster ({ours})")]
    Cluster { ours: String },
    #[error("this process does not serve shard {shard}")]
    Shard { shard: ShardId },
    #[error("it has too many connections ({limit})")]
    Full { limit: usize },
    #[error("it does not understand the handshake")]
    Malformed,
}

/// Names the batches of one `execute` in a `DoGet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub session: u64,
    pub request: u64,
}

/// What may come behind the batches of an `execute`, in `app_metadata` of a piece of Flight data without a header.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Trailer {
    /// The fragment failed: the last piece.
    Failed(ShardError),
    /// What its operators did, for who asked.
    Report(Vec<OperatorCounts>),
}
