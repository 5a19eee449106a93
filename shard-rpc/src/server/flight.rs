//! Arrow Flight: `DoGet` hands out the batches of a fragment that a session has started. The other methods are not served.

use std::{pin::Pin, sync::Arc};

use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
    encode::FlightDataEncoderBuilder, error::FlightError, flight_service_server::FlightService,
};
use async_trait::async_trait;
use bytes::Bytes;
use cortex_shard_api::{ShardError, ShardId};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, session::Batches};
use crate::protocol::{Ticket, Trailer, frame};

/// Bytes that one piece of Flight data should have: larger batches are cut by rows.
const PIECE_BYTES: usize = 1 << 20;

/// The service.
pub(super) struct Flight(pub Arc<Shared>);

type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_served<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("only DoGet is served"))
}

#[async_trait]
impl FlightService for Flight {
    type HandshakeStream = Pieces<HandshakeResponse>;
    type ListFlightsStream = Pieces<FlightInfo>;
    type DoGetStream = Pieces<FlightData>;
    type DoPutStream = Pieces<PutResult>;
    type DoExchangeStream = Pieces<FlightData>;
    type DoActionStream = Pieces<arrow_flight::Result>;
    type ListActionsStream = Pieces<ActionType>;

    async fn do_get(
        &self,
        request: Request<FlightTicket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket: Ticket = frame::decode(&request.into_inner().ticket)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let gone = || Status::not_found("the connection of this request is gone");
        let session = self.0.session(ticket.session).ok_or_else(gone)?;
        let batches = tokio::select! {
            batches = session.batches(ticket.request) => batches,
            () = session.ended.cancelled() => None,
        };
        let batches = batches.ok_or_else(|| Status::cancelled("the fragment does not run"))?;
        let ended = session.ended.clone().cancelled_owned();
        let cut = ended.map(|()| Err(Status::aborted("the connection of this request was lost")));
        // A session that ends must not look like the end of the rows.
        let pieces = pieces(session.shard.id(), batches).map(Some);
        let pieces = pieces.chain(futures::stream::once(async { None }));
        let pieces = futures::stream::select_with_strategy(
            cut.into_stream().map(Some),
            pieces,
            |(): &mut ()| futures::stream::PollNext::Left,
        );
        let pieces = pieces.scan(false, |is_over, piece| {
            let next = match piece {
                Some(_) if *is_over => None,
                Some(Err(status)) => {
                    *is_over = true;
                    Some(Err(status))
                }
                piece => piece,
            };
            std::future::ready(next)
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        not_served()
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        not_served()
    }

    async fn get_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        not_served()
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        not_served()
    }

    async fn get_schema(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        not_served()
    }

    async fn do_put(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        not_served()
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        not_served()
    }

    async fn do_action(
        &self,
        _request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        not_served()
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        not_served()
    }
}

/// Batches as Flight data; an error or the report is the last piece.
fn pieces(
    shard: ShardId,
    batches: Batches,
) -> impl Stream<Item = Result<FlightData, Status>> + Send {
    let Batches { stream, report } = batches;
    // Read when the batches are over: it is there then, or never will be.
    let report = report.map(|report| {
        futures::stream::once(async move {
            let operators = report.operators()?.to_vec();
            Some(trailer(&Trailer::Report(operators)))
        })
        .filter_map(std::future::ready)
    });
    let report = futures::stream::iter(report).flatten();
    FlightDataEncoderBuilder::new()
        .with_max_flight_data_size(PIECE_BYTES)
        .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
        .build(stream.map_err(|error| FlightError::ExternalError(Box::new(error))))
        .map(move |piece| match piece {
            Ok(piece) => Ok(piece),
            Err(error) => error_piece(shard, error),
        })
        .chain(report)
}

fn error_piece(shard: ShardId, error: FlightError) -> Result<FlightData, Status> {
    let error = match error {
        FlightError::ExternalError(error) => match error.downcast::<ShardError>() {
            Ok(error) => *error,
            Err(error) => ShardError::Internal { shard, what: error.to_string() },
        },
        other => ShardError::Internal { shard, what: other.to_string() },
    };
    trailer(&Trailer::Failed(error))
}

fn trailer(trailer: &Trailer) -> Result<FlightData, Status> {
    let trailer = frame::encode(trailer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(FlightData { app_metadata: Bytes::from(trailer), ..FlightData::default() })
}
