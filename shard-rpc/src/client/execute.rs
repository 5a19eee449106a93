//! `execute`: the request goes over the connection like every other, its batches come by Arrow Flight.
//!
//! Both are sent at once: `DoGet` waits on the shard until the fragment runs. The answer on the connection says, typed, whether
//! it does; an error between batches, or the report behind them, travels as a last piece of Flight data with it in `app_metadata`
//! (`protocol::Trailer`). Back-pressure is HTTP/2's. Dropping the stream ends the `DoGet` and with it the fragment.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use arrow::record_batch::RecordBatch;
use arrow_flight::{
    FlightData, Ticket as FlightTicket, decode::FlightRecordBatchStream, error::FlightError,
    flight_service_client::FlightServiceClient,
};
use cortex_shard_api::{
    ShardError, ShardId,
    client::{BatchStream, Fragment, FragmentRequest},
    report::FragmentReport,
};
use futures::{Stream, StreamExt, future::BoxFuture};
use tonic::{Streaming, transport::Channel};

use super::{
    Shared,
    connection::{Connection, reason_of},
};
use crate::protocol::{MESSAGE_BYTES_MAX, Ticket, Trailer, call::Call, frame};

/// Runs a fragment.
pub(super) async fn execute(
    shared: &Arc<Shared>,
    request: FragmentRequest,
) -> Result<BatchStream, ShardError> {
    let shard = shared.endpoint.shard;
    let (version, fragment) = match request.fragment {
        Fragment::Plan(plan) => plan.encode()?,
        Fragment::Bytes { version, bytes } => (version, bytes),
    };
    let report = request.report;
    let connection = shared.connection().await?;
    connection.room().await;
    let sent = connection.send(shared, |tables| {
        let context = shared.context(&request.context, tables.epoch)?;
        Ok(Call::Execute { context, version, fragment, report: report.is_some() })
    })?;
    let Some(mut sent) = sent else {
        return Err(ShardError::Internal { shard, what: "a fragment without a shard".to_owned() });
    };
    let session = connection.session.load(Ordering::Acquire);
    let batches = do_get(connection.flight.clone(), Ticket { session, request: sent.id });
    let mut guard = Guard { connection, id: sent.id, is_wanted: true };
    let mut opening: BoxFuture<'static, Opened> = Box::pin(batches);
    let mut opened = None;
    let answer = {
        let answer = sent.answer::<()>();
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                early = &mut opening, if opened.is_none() => opened = Some(early),
            }
        }
    };
    if let Err(error) = answer {
        guard.is_wanted = false;
        return Err(error);
    }
    let source = match opened {
        Some(Ok(data)) => Source::Open(decoder(data, report.clone())),
        Some(Err(status)) => return Err(lost(shard, &status)),
        None => Source::Opening(opening),
    };
    Ok(Box::pin(Batches { shard, source, guard, report }))
}

type Opened = Result<Streaming<FlightData>, tonic::Status>;

async fn do_get(channel: Channel, ticket: Ticket) -> Opened {
    let mut client = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let ticket = frame::encode(&ticket)
        .map_err(|error| tonic::Status::internal(error.to_string()))?
        .freeze();
    Ok(client.do_get(FlightTicket { ticket }).await?.into_inner())
}

fn lost(shard: ShardId, status: &tonic::Status) -> ShardError {
    ShardError::Unavailable { shard, reason: reason_of(status) }
}

/// Flight data as batches; the last piece may be an error or a report.
fn decoder(
    data: Streaming<FlightData>,
    report: Option<Arc<FragmentReport>>,
) -> FlightRecordBatchStream {
    let data = data.filter_map(move |piece| {
        let piece = match piece {
            Ok(piece) if !piece.data_header.is_empty() || piece.app_metadata.is_empty() => {
                Some(Ok(piece))
            }
            Ok(piece) => match frame::decode::<Trailer>(&piece.app_metadata) {
                Ok(Trailer::Failed(error)) => {
                    Some(Err(FlightError::ExternalError(Box::new(error))))
                }
                Ok(Trailer::Report(operators)) => {
                    if let Some(report) = &report {
                        report.fill(operators);
                    }
                    None
                }
                Err(error) => Some(Err(FlightError::DecodeError(error.to_string()))),
            },
            Err(status) => Some(Err(FlightError::Tonic(Box::new(status)))),
        };
        std::future::ready(piece)
    });
    FlightRecordBatchStream::new_from_flight_data(data)
}

enum Source {
    Opening(BoxFuture<'static, Opened>),
    Open(FlightRecordBatchStream),
    Over,
}

/// Tells the shard when the batches are not wanted any more: it may not have been asked for them yet.
struct Guard {
    connection: Arc<Connection>,
    id: u64,
    is_wanted: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_wanted {
            self.connection.cancel(self.id);
        }
    }
}

struct Batches {
    shard: ShardId,
    source: Source,
    guard: Guard,
    report: Option<Arc<FragmentReport>>,
}

impl Batches {
    fn over(&mut self) {
        self.source = Source::Over;
        self.guard.is_wanted = false;
    }
}

impl Stream for Batches {
    type Item = Result<RecordBatch, ShardError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match &mut this.source {
                Source::Over => return Poll::Ready(None),
                Source::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(data) => this.source = Source::Open(decoder(data, this.report.clone())),
                    Err(status) => {
                        this.source = Source::Over;
                        return Poll::Ready(Some(Err(lost(this.shard, &status))));
                    }
                },
                Source::Open(batches) => {
                    let next = ready!(batches.poll_next_unpin(context));
                    return Poll::Ready(match next {
                        Some(Ok(batch)) => Some(Ok(batch)),
                        Some(Err(error)) => {
                            this.over();
                            Some(Err(shard_error(this.shard, error)))
                        }
                        None => {
                            this.over();
                            None
                        }
                    });
                }
            }
        }
    }
}

fn shard_error(shard: ShardId, error: FlightError) -> ShardError {
    match error {
        FlightError::ExternalError(error) => match error.downcast::<ShardError>() {
            Ok(error) => *error,
            Err(error) => ShardError::Internal { shard, what: error.to_string() },
        },
        FlightError::Tonic(status) => lost(shard, &status),
        other => ShardError::Internal { shard, what: other.to_string() },
    }
}
