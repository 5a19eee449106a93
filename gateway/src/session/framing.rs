//! Framing: bytes of the socket ↔ whole messages.
//!
//! Lives here: the connection's two buffers, the bound on each kind of message, and the cut of the inbound bytes into
//! frames. Not here: what a message means (`message`), and when to flush (`session`). A frame's length is checked before its
//! body is waited for, and memory grows with what has arrived, never with what a length field promises.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::error::{PgError, SqlState};

/// Before authentication nobody may make us hold more, as in Postgres (`MAX_STARTUP_PACKET_LENGTH`).
pub(crate) const STARTUP_BYTES_MAX: usize = 10_000;
/// Statement texts, parameters and COPY data. Postgres takes 1 GiB; here 500 connections share one process.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Messages that hold a name and a number or two.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Space for one read of the socket, and how far it grows while reads fill it (COPY).
const READ_BYTES: usize = 8 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// While a query runs, no more than this is read ahead.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;
/// What a client may still have sent when its connection is closed.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// A buffer that one big message has grown beyond this is given back afterwards.
const KEEP_BYTES_MAX: usize = 256 << 10;
/// Rows are flushed when this much is waiting.
pub(crate) const FLUSH_BYTES: usize = 32 << 10;

/// A client's connection, with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after the end.
    Closed,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// One message: its type byte and its body, exactly as long as its length field says.
#[derive(Debug)]
pub(crate) struct Frame {
    pub kind: u8,
    pub body: Bytes,
}

/// Which messages are expected, and how long they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Only answers to an authentication request.
    Authentication,
    /// Everything a client may send to a session.
    Session,
}

/// The connection with its buffers.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    inbound: BytesMut,
    read_bytes: usize,
    /// Messages not sent yet. Append to it; `flush` sends it.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// The client has closed, or the socket failed: nothing can be sent or read.
    closed: bool,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Wire {
        let inbound = BytesMut::new();
        Wire { stream, inbound, read_bytes: READ_BYTES, out: Vec::new(), sent: 0, closed: false }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether bytes are waiting that no message has claimed.
    pub(crate) fn has_unread(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// Whether the next message is here already, and is a Sync.
    pub(crate) fn next_is_sync(&self) -> bool {
        self.inbound.starts_with(&[b'S', 0, 0, 0, 4])
    }

    /// Cuts the next message off the inbound bytes; `None` if it is not whole yet.
    pub(crate) fn take_frame(&mut self, phase: Phase) -> Result<Option<Frame>, PgError> {
        let Some(&kind) = self.inbound.first() else { return Ok(None) };
        let bound = body_bytes_max(kind, phase)?;
        let Some(length) = self.inbound.get(1..5) else { return Ok(None) };
        let length = i32::from_be_bytes(length.try_into().unwrap_or_default());
        let Some(body) = usize::try_from(length).ok().and_then(|length| length.checked_sub(4))
        else {
            return Err(PgError::protocol("invalid message length"));
        };
        if body > bound {
            return Err(too_long(kind, body, bound));
        }
        if self.inbound.len() < body + 5 {
            return Ok(None);
        }
        self.inbound.advance(5);
        Ok(Some(Frame { kind, body: self.inbound.split_to(body).freeze() }))
    }

    /// Cuts the next startup packet (which has no type byte) off the inbound bytes.
    pub(crate) fn take_startup(&mut self) -> Result<Option<Bytes>, PgError> {
        let Some(length) = self.inbound.get(0..4) else { return Ok(None) };
        let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(PgError::protocol("invalid length of startup packet"));
        }
        if self.inbound.len() < length {
            return Ok(None);
        }
        self.inbound.advance(4);
        Ok(Some(self.inbound.split_to(length - 4).freeze()))
    }

    /// Waits for the next message. `None`: the client has closed between two messages.
    pub(crate) async fn read_frame(&mut self, phase: Phase) -> Result<Option<Frame>, PgError> {
        loop {
            if let Some(frame) = self.take_frame(phase)? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for a startup packet.
    pub(crate) async fn read_startup(&mut self) -> Result<Option<Bytes>, PgError> {
        loop {
            if let Some(packet) = self.take_startup()? {
                return Ok(Some(packet));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads once; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, PgError> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await;
        Ok(!self.closed)
    }

    /// Reads once. An error of the socket is the end of the connection, like its close.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closed {
            return Poll::Ready(());
        }
        // Doubling: a long message costs few reads and at most twice what has arrived of it.
        let space = self.read_bytes.max(self.inbound.len());
        self.inbound.reserve(space);
        let read = pin!(self.stream.read_buf(&mut self.inbound));
        match ready!(read.poll(cx)) {
            Ok(0) | Err(_) => self.closed = true,
            Ok(n) if n >= self.read_bytes => {
                self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
            }
            Ok(_) => {}
        }
        Poll::Ready(())
    }

    /// While a query runs: notices that the client has closed. Ready means closed; what arrives is kept, up to a bound.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.closed {
            if self.inbound.len() >= READ_AHEAD_BYTES_MAX {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx));
        }
        Poll::Ready(())
    }

    /// Whether enough is waiting that it should go out before more is appended.
    pub(crate) fn should_flush(&self) -> bool {
        self.out.len() >= FLUSH_BYTES
    }

    /// Sends what is waiting. May be dropped and called again; nothing is sent twice.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sent < self.out.len() && !self.closed {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]);
            match ready!(written) {
                Ok(0) | Err(_) => self.closed = true,
                Ok(n) => self.sent += n,
            }
        }
        if !self.closed && ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err() {
            self.closed = true;
        }
        self.sent = 0;
        if self.out.capacity() > KEEP_BYTES_MAX {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        Poll::Ready(())
    }

    pub(crate) async fn flush(&mut self) {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
    }

    /// The end of what we say: what is waiting goes out.
    pub(crate) async fn finish(&mut self) {
        self.flush().await;
        if !self.closed && self.stream.shutdown().await.is_err() {
            self.closed = true;
        }
    }

    /// After `finish`: the client's unread bytes are swallowed, because closing on top of them would reset the connection and take
    /// the last message away from it. Ready when it has closed, too.
    pub(crate) async fn linger(&mut self) {
        let mut swallowed = 0;
        while swallowed < LINGER_BYTES_MAX && !self.closed {
            self.inbound.clear();
            let _ = self.fill().await;
            swallowed += self.inbound.len();
        }
    }

    /// Between two commands: gives back a buffer that a big message has left.
    pub(crate) fn shrink(&mut self) {
        if self.inbound.is_empty() && self.inbound.capacity() > KEEP_BYTES_MAX {
            self.inbound = BytesMut::new();
            self.read_bytes = READ_BYTES;
        }
    }
}

/// The longest body of a message of this kind. Unknown kinds end the connection: their length cannot be trusted.
fn body_bytes_max(kind: u8, phase: Phase) -> Result<usize, PgError> {
    let bound = match (phase, kind) {
        (Phase::Authentication, b'p') => STARTUP_BYTES_MAX,
        (Phase::Authentication, b'X') => 0,
        (Phase::Authentication, _) => {
            return Err(PgError::protocol(format!(
                "expected password response, got message type {kind}"
            )));
        }
        (Phase::Session, b'Q' | b'P' | b'B' | b'd' | b'F') => MESSAGE_BYTES_MAX,
        (Phase::Session, b'D' | b'C' | b'E' | b'f') => SMALL_BYTES_MAX,
        (Phase::Session, b'S' | b'H' | b'c' | b'X') => 0,
        (Phase::Session, _) => {
            return Err(PgError::protocol(format!("invalid frontend message type {kind}")));
        }
    };
    Ok(bound)
}

fn too_long(kind: u8, body: usize, bound: usize) -> PgError {
    let name = char::from(kind);
    if bound == 0 {
        return PgError::protocol(format!("invalid message format: '{name}' has no body"));
    }
    if bound < MESSAGE_BYTES_MAX {
        return PgError::protocol(format!(
            "message '{name}' of {body} bytes is longer than its limit of {bound} bytes"
        ));
    }
    PgError::fatal(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("message '{name}' of {body} bytes is longer than the limit of {bound} bytes"),
    )
    .with_hint("Send large data in parts, for example with COPY.")
}
