//! Frames: `[length u32][request u64][body]`, little-endian, one behind the other in a message.
//!
//! Lives here: gathering frames into messages and taking them out again, and serde values as bytes (postcard). The length
//! counts what follows it. Bodies from a client begin with a `Kind`; bodies from a server are a `Result` of what the request
//! answers.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

use super::{FRAME_BYTES_MAX, MESSAGE_BYTES_TARGET};

/// Bytes of a frame's request number.
const ID_BYTES: usize = 8;

/// Room that a fresh message has: many point requests.
const MESSAGE_BYTES_MIN: usize = 4 << 10;

/// What a client's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A request; its transaction, if it has one, has begun on this connection before.
    Call = 0,
    /// A request with which its transaction begins on this shard.
    Begin = 1,
    /// The answer to the request is not wanted any more.
    Cancel = 2,
    /// Closes a snapshot (u64). Has no answer.
    CloseSnapshot = 3,
    /// A table descriptor, with the number (u32) that names it from now on. Has no answer.
    Table = 4,
    /// All numbers of tables are free again. Has no answer.
    ForgetTables = 5,
}

impl Kind {
    pub fn of(byte: u8) -> Option<Kind> {
        [
            Kind::Call,
            Kind::Begin,
            Kind::Cancel,
            Kind::CloseSnapshot,
            Kind::Table,
            Kind::ForgetTables,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a value is larger than {FRAME_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a value cannot be encoded")]
    Encode,
    #[error("bytes do not decode")]
    Decode,
    #[error("a message ends inside a frame")]
    Torn,
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    full: VecDeque<Bytes>,
    open: BytesMut,
    bytes: usize,
}

impl FrameBuffer {
    /// Appends a frame whose body is what `write` writes. On error nothing is appended.
    pub fn push(
        &mut self,
        id: u64,
        write: impl FnOnce(&mut BytesMut) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        let start = self.open.len();
        if start == 0 {
            self.open.reserve(MESSAGE_BYTES_MIN);
        }
        self.open.put_u32_le(0);
        self.open.put_u64_le(id);
        let written = write(&mut self.open);
        let length = self.open.len() - start - 4;
        let is_in_bounds = length <= FRAME_BYTES_MAX;
        let length = match (written, u32::try_from(length)) {
            (Ok(()), Ok(length)) if is_in_bounds => length,
            (Ok(()), _) => {
                self.open.truncate(start);
                return Err(FrameError::TooLarge);
            }
            (Err(error), _) => {
                self.open.truncate(start);
                return Err(error);
            }
        };
        self.open[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes += self.open.len() - start;
        if self.open.len() >= MESSAGE_BYTES_TARGET {
            self.full.push_back(self.open.split().freeze());
        }
        Ok(())
    }

    /// Appends a message of its own.
    pub fn push_message(&mut self, message: Bytes) {
        if !self.open.is_empty() {
            self.full.push_back(self.open.split().freeze());
        }
        self.bytes += message.len();
        self.full.push_back(message);
    }

    /// The next message.
    pub fn take(&mut self) -> Option<Bytes> {
        let message = match self.full.pop_front() {
            Some(message) => message,
            None if self.open.is_empty() => return None,
            None => self.open.split().freeze(),
        };
        self.bytes -= message.len();
        Some(message)
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes
    }
}

/// Takes the next frame off a message: its request and its body. `None` at the end.
pub(crate) fn next_frame(message: &mut Bytes) -> Result<Option<(u64, Bytes)>, FrameError> {
    if message.is_empty() {
        return Ok(None);
    }
    if message.len() < 4 {
        return Err(FrameError::Torn);
    }
    let length = message.get_u32_le() as usize;
    if length < ID_BYTES || length > message.len() {
        return Err(FrameError::Torn);
    }
    let mut body = message.split_to(length);
    let id = body.get_u64_le();
    Ok(Some((id, body)))
}

/// Appends a value.
pub(crate) fn write<T: Serialize + ?Sized>(
    out: &mut BytesMut,
    value: &T,
) -> Result<(), FrameError> {
    let limit = out.len() + FRAME_BYTES_MAX;
    postcard::serialize_with_flavor(value, Appending { out, limit }).map_err(|error| match error {
        postcard::Error::SerializeBufferFull => FrameError::TooLarge,
        _ => FrameError::Encode,
    })
}

/// A value as bytes of its own.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<BytesMut, FrameError> {
    let mut out = BytesMut::with_capacity(256);
    write(&mut out, value)?;
    Ok(out)
}

/// Reads a value that is all of the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(FrameError::Decode),
    }
}

struct Appending<'a> {
    out: &'a mut BytesMut,
    limit: usize,
}

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        if data.len() > self.limit.saturating_sub(self.out.len()) {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        if self.out.len() >= self.limit {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.put_u8(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
