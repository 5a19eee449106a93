//! COPY data between the socket and the SQL side, in either protocol.
//!
//! Both directions hold each other back: a sink that waits for its shards stops the reading of the socket, a client that
//! does not read stops the stream.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{
    Session,
    framing::{Frame, Phase},
    message::decode_text,
};
use crate::{
    encode::{self, Bare},
    error::{PgError, SqlState},
    statement::{CopyShape, CopySink, CopyStream},
};

/// CopyData messages are often one row each; they are handed on in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

impl Session {
    /// COPY FROM STDIN; returns the number of rows.
    pub(super) async fn copy_in(
        &mut self,
        shape: CopyShape,
        mut sink: Box<dyn CopySink>,
    ) -> Result<u64, PgError> {
        encode::copy_in(&mut self.wire.out, shape);
        self.guard.flush(&mut self.wire).await?;
        // A message that was read while looking for more data.
        let mut pending = None;
        loop {
            let frame = match pending.take() {
                Some(frame) => frame,
                None => self.copy_frame().await?,
            };
            match frame.kind {
                b'd' => {
                    let (piece, next) = self.gather(frame.body)?;
                    pending = next;
                    self.guard.run(&mut self.wire, sink.data(piece)).await?;
                }
                b'c' => return self.guard.run(&mut self.wire, sink.finish()).await,
                b'f' => {
                    let reason = decode_text(frame.body, "CopyFail")?;
                    return Err(PgError::new(
                        SqlState::QUERY_CANCELED,
                        format!("COPY from stdin failed: {}", reason.as_str()?),
                    ));
                }
                // Clients that send Execute and Sync together have sent these too early.
                b'H' | b'S' => {}
                b'X' => {
                    return Err(PgError::protocol("the client ended its session during COPY"));
                }
                kind => {
                    return Err(PgError::new(
                        SqlState::PROTOCOL_VIOLATION,
                        format!("unexpected message type 0x{kind:02X} during COPY from stdin"),
                    ));
                }
            }
        }
    }

    async fn copy_frame(&mut self) -> Result<Frame, PgError> {
        loop {
            if let Some(frame) = self.wire.take_frame(Phase::Session)? {
                return Ok(frame);
            }
            self.guard.fill(&mut self.wire).await?;
        }
    }

    /// One piece from this message and those that have arrived behind it, and the first message that is no data.
    fn gather(&mut self, first: Bytes) -> Result<(Bytes, Option<Frame>), PgError> {
        if first.len() >= PIECE_BYTES {
            return Ok((first, None));
        }
        let mut piece = BytesMut::new();
        loop {
            match self.wire.take_frame(Phase::Session)? {
                Some(frame) if frame.kind == b'd' => {
                    if piece.is_empty() {
                        piece.reserve(PIECE_BYTES * 2);
                        piece.extend_from_slice(&first);
                    }
                    piece.extend_from_slice(&frame.body);
                    if piece.len() >= PIECE_BYTES {
                        return Ok((piece.freeze(), None));
                    }
                }
                other => {
                    let whole = if piece.is_empty() { first } else { piece.freeze() };
                    return Ok((whole, other));
                }
            }
        }
    }

    /// COPY TO STDOUT; returns the number of rows.
    pub(super) async fn copy_out(
        &mut self,
        shape: CopyShape,
        mut data: CopyStream,
    ) -> Result<u64, PgError> {
        encode::copy_out(&mut self.wire.out, shape);
        let mut n_rows = 0;
        // The header of a binary COPY goes out in one message with what follows, as clients that read row by row expect.
        let mut header = Bytes::new();
        loop {
            let next = async { data.next().await.transpose() };
            let Some((bytes, rows)) = self.guard.run(&mut self.wire, next).await? else { break };
            if shape.binary && n_rows == 0 && rows == 0 && header.is_empty() {
                header = bytes;
                continue;
            }
            encode::copy_data(&mut self.wire.out, &[&std::mem::take(&mut header), &bytes]);
            n_rows += rows;
            if self.wire.should_flush() {
                self.guard.flush(&mut self.wire).await?;
            }
        }
        if !header.is_empty() {
            encode::copy_data(&mut self.wire.out, &[&header]);
        }
        encode::bare(&mut self.wire.out, Bare::CopyDone);
        Ok(n_rows)
    }
}
