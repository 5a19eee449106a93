//! Wire message → statement text and parameters, and answers → messages: one connection from accept to close.
//!
//! Lives here: the loop that reads messages and what ends it. Not here: SQL and transactions (`exec`, behind `SqlSession`),
//! bytes of values (`encode`). Invariants: nothing executes before AuthenticationOk; after a FATAL nothing is read; a panic
//! ends this connection and no other.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::net::TcpStream;

use crate::{
    encode,
    error::{PgError, SqlState},
    listener::Shared,
    statement::SqlSession,
};

/// Passwords.
pub mod auth;

/// Cancellation, timeouts and shutdown.
pub(crate) mod cancel;

/// COPY data.
mod copy;

/// Parse, Bind, Describe, Execute, Close, Sync.
mod extended;

/// Bytes ↔ messages.
pub(crate) mod framing;

/// Bodies of the client's messages.
pub(crate) mod message;

/// Prepared statements and portals.
mod portal;

/// Query.
mod simple;

/// TLS, startup packet, authentication.
mod startup;

use cancel::{Guard, Registration, Signal};
use framing::{Frame, Phase, Stream, Wire};
use portal::{Named, Portal, Statement};
use startup::{Parameters, Start};

/// From accept to the first ReadyForQuery; who takes longer holds a place that others want.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a last message may take to go out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the client's own end is waited for after it,
const LINGER: Duration = Duration::from_secs(2);
/// and when the server stops: an idle client learns of it only with its next statement, and nobody shall wait for that.
const LINGER_STOPPING: Duration = Duration::from_millis(100);

/// One authenticated connection.
struct Session {
    wire: Wire,
    guard: Guard,
    signal: Arc<Signal>,
    sql: Box<dyn SqlSession>,
    statements: Named<Statement>,
    portals: Named<Portal>,
    /// An error in the extended protocol: everything up to Sync is skipped.
    skips_to_sync: bool,
    /// A statement ran since the last Sync and left the implicit transaction open.
    implicit_open: bool,
    /// An error waits in the buffer; the client may want to read it before it sends Sync.
    flushes_when_idle: bool,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Close,
}

/// Serves one connection to its end. Never fails: whatever goes wrong ends here.
pub(crate) async fn run(stream: TcpStream, peer: IpAddr, shared: Arc<Shared>) {
    let mut wire = Wire::new(Stream::Plain(stream));
    let result = AssertUnwindSafe(serve(&mut wire, peer, &shared)).catch_unwind().await;
    let error = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(panic) => Some(panicked(panic.as_ref())),
    };
    end(&mut wire, error).await;
}

/// Tells the client why, and closes.
async fn end(wire: &mut Wire, error: Option<PgError>) {
    let mut linger = LINGER;
    if let Some(mut error) = error {
        if error.code == SqlState::ADMIN_SHUTDOWN {
            linger = LINGER_STOPPING;
        }
        if !error.is_fatal() {
            error.severity = crate::error::Severity::Fatal;
        }
        tracing::debug!(code = error.code.0, %error, "connection ends");
        if !wire.is_closed() {
            encode::error_response(&mut wire.out, &error);
        }
    }
    if tokio::time::timeout(CLOSE_TIMEOUT, wire.finish()).await.is_ok() {
        let _ = tokio::time::timeout(linger, wire.linger()).await;
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> PgError {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = what, "a connection panicked");
    PgError::fatal(SqlState::INTERNAL_ERROR, "internal error: the connection panicked")
        .with_detail(what)
        .with_hint("This is a bug in CortexDB; the server's log has more.")
}

/// Startup within its time, then the session.
async fn serve(wire: &mut Wire, peer: IpAddr, shared: &Arc<Shared>) -> Result<(), PgError> {
    let startup = tokio::time::timeout(STARTUP_TIMEOUT, start(wire, peer, shared));
    let started = tokio::select! {
        biased;
        started = startup => started.unwrap_or_else(|_| {
            Err(PgError::fatal(SqlState::QUERY_CANCELED, "canceling authentication due to timeout"))
        })?,
        () = shared.stopping.cancelled() => return Err(cancel::admin_shutdown()),
    };
    let Some(Started { sql, registration, place }) = started else { return Ok(()) };
    let signal = registration.signal.clone();
    let mut session = Session {
        wire: std::mem::replace(wire, Wire::new(Stream::Closed)),
        guard: Guard::new(signal.clone(), sql.shield()),
        signal,
        sql,
        statements: Named::statements(),
        portals: Named::portals(),
        skips_to_sync: false,
        implicit_open: false,
        flushes_when_idle: false,
    };
    let result = AssertUnwindSafe(session.serve()).catch_unwind().await;
    let error = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(panic) => Some(panicked(panic.as_ref())),
    };
    // Rows and snapshots go before the transaction that they belong to.
    session.portals.clear();
    if let Err(panic) = AssertUnwindSafe(session.sql.close()).catch_unwind().await {
        panicked(panic.as_ref());
    }
    // Its place is free once the SQL side has let go, not when a slow client has read its last message.
    drop((registration, place));
    end(&mut session.wire, error).await;
    Ok(())
}

/// What startup leads to.
struct Started {
    sql: Box<dyn SqlSession>,
    registration: Registration,
    place: tokio::sync::OwnedSemaphorePermit,
}

/// `None`: nothing more to do for this connection.
async fn start(
    wire: &mut Wire,
    peer: IpAddr,
    shared: &Arc<Shared>,
) -> Result<Option<Started>, PgError> {
    let parameters: Parameters = match startup::negotiate(wire, shared.tls.as_ref()).await? {
        Start::Session(parameters) => parameters,
        Start::Cancel { process_id, secret } => {
            shared.registry.cancel(process_id, secret);
            return Ok(None);
        }
        Start::Gone => return Ok(None),
    };
    let Some(service) = shared.service.get() else {
        return Err(PgError::fatal(
            SqlState::CANNOT_CONNECT_NOW,
            "the database system is starting up",
        ));
    };
    startup::authenticate(wire, service.as_ref(), &parameters, peer).await?;
    // After the password, so that nobody without one takes a place away.
    let Ok(place) = shared.places.clone().try_acquire_owned() else {
        return Err(PgError::fatal(
            SqlState::TOO_MANY_CONNECTIONS,
            "sorry, too many clients already",
        )
        .with_hint("Close connections, use a pool, or start with a larger --max-connections."));
    };
    let registration = shared.registry.register();
    let Parameters { user, database, options, .. } = &parameters;
    let process_id = registration.process_id;
    let mut sql = service.open(user, database, process_id, options).await?;
    for (name, value) in sql.take_parameter_changes() {
        encode::parameter_status(&mut wire.out, &name, &value);
    }
    encode::backend_key_data(&mut wire.out, process_id, registration.secret);
    for notice in sql.take_notices() {
        encode::notice_response(&mut wire.out, &notice);
    }
    encode::ready_for_query(&mut wire.out, sql.transaction_status());
    wire.flush().await;
    Ok(Some(Started { sql, registration, place }))
}

impl Session {
    /// Reads messages until the client goes or something fatal happens.
    async fn serve(&mut self) -> Result<(), PgError> {
        while let Some(frame) = self.next_frame().await? {
            let extended = matches!(frame.kind, b'P' | b'B' | b'D' | b'E' | b'C' | b'H');
            match self.handle(frame).await {
                Ok(Next::Continue) => {}
                Ok(Next::Close) => return Ok(()),
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    self.report(&error).await;
                    self.skips_to_sync = extended;
                    self.flushes_when_idle = true;
                }
            }
        }
        Ok(())
    }

    /// The next message; `None` when the client has gone.
    async fn next_frame(&mut self) -> Result<Option<Frame>, PgError> {
        loop {
            if let Some(frame) = self.wire.take_frame(Phase::Session)? {
                return Ok(Some(frame));
            }
            if self.flushes_when_idle {
                self.flushes_when_idle = false;
                self.guard.flush_end(&mut self.wire).await?;
            }
            self.wire.shrink();
            std::future::poll_fn(|cx| {
                if self.signal.poll_idle_stop(cx).is_ready() {
                    return std::task::Poll::Ready(Err(cancel::admin_shutdown()));
                }
                self.wire.poll_fill(cx).map(Ok)
            })
            .await?;
            if self.wire.is_closed() {
                return Ok(None);
            }
            self.signal.forget_cancel();
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<Next, PgError> {
        match frame.kind {
            b'X' => return Ok(Next::Close),
            b'S' => self.sync().await?,
            _ if self.skips_to_sync => {}
            b'Q' => self.query(frame.body).await?,
            b'P' => self.parse(frame.body).await?,
            b'B' => self.bind(frame.body)?,
            b'D' => self.describe(frame.body)?,
            b'E' => self.execute(frame.body).await?,
            b'C' => self.close(frame.body)?,
            b'H' => self.guard.flush_end(&mut self.wire).await?,
            // What is left of a COPY that has failed.
            b'd' | b'c' | b'f' => {}
            b'F' => self.function_call().await?,
            kind => {
                return Err(PgError::protocol(format!("invalid frontend message type {kind}")));
            }
        }
        Ok(Next::Continue)
    }

    /// The function call protocol, which nobody uses: an error, and the client may go on.
    async fn function_call(&mut self) -> Result<(), PgError> {
        let error = PgError::unsupported(
            "the function call protocol is not supported",
            "Call the function in a SELECT.",
        );
        self.report(&error).await;
        self.ready().await
    }

    /// Sends an error and tells the SQL side that its transaction has failed.
    async fn report(&mut self, error: &PgError) {
        tracing::debug!(code = error.code.0, %error, "statement failed");
        self.guard.begin(None);
        self.portals.clear();
        self.sql.failed().await;
        self.tell();
        encode::error_response(&mut self.wire.out, error);
    }

    /// Ends the implicit transaction. An error here is a commit that failed.
    ///
    /// It runs without the guard: a commit whose answer is not waited for is a commit of unknown outcome.
    async fn end_implicit(&mut self) -> Result<(), PgError> {
        self.implicit_open = false;
        self.sql.sync().await
    }

    /// After an error: whatever is open ends, and no second error can come of it.
    async fn roll_back_implicit(&mut self) {
        if let Err(error) = self.end_implicit().await {
            tracing::warn!(code = error.code.0, %error, "rolling back after an error");
        }
    }

    /// Passes on what the SQL side has to say besides its answers.
    fn tell(&mut self) {
        for notice in self.sql.take_notices() {
            encode::notice_response(&mut self.wire.out, &notice);
        }
        for (name, value) in self.sql.take_parameter_changes() {
            encode::parameter_status(&mut self.wire.out, &name, &value);
        }
    }

    /// DEALLOCATE and DISCARD drop what Parse has named.
    fn forget_deallocated(&mut self) {
        for name in self.sql.take_deallocated() {
            match name {
                Some(name) => drop(self.statements.remove(&name)),
                None => self.statements.clear(),
            }
        }
    }

    /// ReadyForQuery, and everything goes out.
    async fn ready(&mut self) -> Result<(), PgError> {
        self.tell();
        encode::ready_for_query(&mut self.wire.out, self.sql.transaction_status());
        self.flushes_when_idle = false;
        self.guard.flush_end(&mut self.wire).await
    }
}
