//! Other calls between nodes, on the port of the shards: one question and one answer, or one question and a stream of answers.
//!
//! Lives here: values in and out (postcard in gRPC messages), and whether a call arrived at all. What a service answers when it
//! does not want to is part of its answer's type. A stream lives as long as both sides and the link between them: who answers
//! notices by its stream being dropped.

use std::{
    collections::HashMap, convert::Infallible, fmt, future::Future, pin::Pin, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture};
use http::{Request, Response, uri::PathAndQuery};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    client,
    server::{self, ServerStreamingService, UnaryService},
    transport::Channel,
};

use crate::{
    client::{ClientConfig, chain, endpoint, reason_of},
    protocol::{codec::BytesCodec, frame},
};

/// Bytes of a question or an answer: lists of members, not data.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It may or may not have been done.
    #[error("{address} cannot be reached: {reason}")]
    Unavailable { address: String, reason: String },
    /// The node does not know the service or the method, or one side cannot read the other: another release.
    #[error("{address} does not understand the call: {reason}")]
    Mismatch { address: String, reason: String },
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

type Unary = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, Status>> + Send + Sync>;
type Streaming = Arc<dyn Fn(Bytes) -> Result<Answers, Status> + Send + Sync>;

/// A method of a service.
#[derive(Clone)]
pub(crate) enum Method {
    Unary(Unary),
    Streaming(Streaming),
}

/// Methods by name. Add it to a `Server`.
pub struct Service {
    name: &'static str,
    methods: HashMap<&'static str, Method>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    frame::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn write<T: Serialize>(value: &T) -> Result<Bytes, Status> {
    let bytes = frame::encode(value).map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.freeze())
}

impl Service {
    /// A service without methods. The name must be the only one of its kind on the port: `cortexdb.Meta`.
    pub fn new(name: &'static str) -> Service {
        Service { name, methods: HashMap::new() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// A question and its answer. The future is dropped when the caller is gone.
    #[must_use]
    pub fn unary<Q, A, F>(
        mut self,
        method: &'static str,
        answer: impl Fn(Q) -> F + Send + Sync + 'static,
    ) -> Service
    where
        Q: DeserializeOwned,
        A: Serialize,
        F: Future<Output = A> + Send + 'static,
    {
        let unary: Unary = Arc::new(move |question| match read(&question) {
            Ok(question) => {
                let answer = answer(question);
                Box::pin(async move { write(&answer.await) })
            }
            Err(status) => Box::pin(std::future::ready(Err(status))),
        });
        self.methods.insert(method, Method::Unary(unary));
        self
    }

    /// A question and a stream of answers, which is dropped when the caller is gone or the link is dead.
    #[must_use]
    pub fn streaming<Q, A, S>(
        mut self,
        method: &'static str,
        answers: impl Fn(Q) -> S + Send + Sync + 'static,
    ) -> Service
    where
        Q: DeserializeOwned,
        A: Serialize,
        S: Stream<Item = A> + Send + 'static,
    {
        let streaming: Streaming = Arc::new(move |question| {
            let answers = answers(read(&question)?);
            Ok(Box::pin(answers.map(|answer| write(&answer))))
        });
        self.methods.insert(method, Method::Streaming(streaming));
        self
    }

    pub(crate) fn method(&self, name: &str) -> Option<Method> {
        self.methods.get(name).cloned()
    }
}

impl Method {
    /// Answers a call, until the server stops.
    pub(crate) fn answer(
        self,
        request: Request<Body>,
        stopping: watch::Receiver<bool>,
    ) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        Box::pin(async move {
            let mut grpc =
                server::Grpc::new(BytesCodec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(match self {
                Method::Unary(unary) => grpc.unary(AnswerOne(unary, stopping), request).await,
                Method::Streaming(streaming) => {
                    grpc.server_streaming(AnswerMany(streaming, stopping), request).await
                }
            })
        })
    }
}

/// Is ready when the server stops, or nobody is left to stop it.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

struct AnswerOne(Unary, watch::Receiver<bool>);

impl UnaryService<Bytes> for AnswerOne {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        let stopped = stopped(self.1.clone());
        Box::pin(async move {
            tokio::select! {
                answer = answer => Ok(tonic::Response::new(answer?)),
                () = stopped => Err(Status::unavailable("it is shut down")),
            }
        })
    }
}

struct AnswerMany(Streaming, watch::Receiver<bool>);

impl ServerStreamingService<Bytes> for AnswerMany {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<tonic::Response<Answers>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let stopped = Box::pin(stopped(self.1.clone()));
        let answers = (self.0)(request.into_inner());
        let answers = answers.map(|answers| {
            let answers: Answers = Box::pin(answers.take_until(stopped));
            tonic::Response::new(answers)
        });
        Box::pin(std::future::ready(answers))
    }
}

/// Calls services of one node. Connects with the first call, and again after the link broke.
#[derive(Clone)]
pub struct ServiceClient {
    address: Arc<str>,
    channel: Channel,
}

impl fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServiceClient {
    /// For a node at `host:port`. Needs a tokio runtime around it.
    pub fn new(address: &str, config: &ClientConfig) -> Result<ServiceClient, CallError> {
        let unavailable = |reason| CallError::Unavailable { address: address.to_owned(), reason };
        let channel = endpoint(address, config).map_err(unavailable)?.connect_lazy();
        Ok(ServiceClient { address: address.into(), channel })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    fn unavailable(&self, reason: impl Into<String>) -> CallError {
        CallError::Unavailable { address: self.address.to_string(), reason: reason.into() }
    }

    fn mismatch(&self, reason: impl Into<String>) -> CallError {
        CallError::Mismatch { address: self.address.to_string(), reason: reason.into() }
    }

    fn failed(&self, status: &Status) -> CallError {
        let reason = reason_of(status);
        match status.code() {
            tonic::Code::Unimplemented | tonic::Code::InvalidArgument => self.mismatch(reason),
            _ => self.unavailable(reason),
        }
    }

    fn path(&self, service: &str, method: &str) -> Result<PathAndQuery, CallError> {
        let path = format!("/{service}/{method}");
        PathAndQuery::try_from(path).map_err(|error| self.mismatch(error.to_string()))
    }

    async fn grpc(&self) -> Result<client::Grpc<Channel>, CallError> {
        let mut grpc =
            client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| self.unavailable(chain(&error)))?;
        Ok(grpc)
    }

    /// Asks, and waits for the answer at most so long.
    pub async fn unary<Q: Serialize, A: DeserializeOwned>(
        &self,
        service: &str,
        method: &str,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let path = self.path(service, method)?;
        let question = write(question).map_err(|status| self.failed(&status))?;
        let asked = async {
            let mut grpc = self.grpc().await?;
            let answer = grpc.unary(tonic::Request::new(question), path, BytesCodec).await;
            answer.map_err(|status| self.failed(&status))
        };
        let answer = tokio::time::timeout(timeout, asked).await;
        let answer = answer.map_err(|_| self.unavailable("it does not answer in time"))??;
        read(&answer.into_inner()).map_err(|status| self.mismatch(reason_of(&status)))
    }

    /// Asks for a stream of answers; the first may take at most `timeout` to begin. Dropping it tells the other side.
    pub async fn streaming<Q: Serialize, A: DeserializeOwned + 'static>(
        &self,
        service: &str,
        method: &str,
        question: &Q,
        timeout: Duration,
    ) -> Result<impl Stream<Item = Result<A, CallError>> + Send + Unpin + use<Q, A>, CallError>
    {
        let path = self.path(service, method)?;
        let question = write(question).map_err(|status| self.failed(&status))?;
        let asked = async {
            let mut grpc = self.grpc().await?;
            let request = tonic::Request::new(question);
            let answers = grpc.server_streaming(request, path, BytesCodec).await;
            answers.map_err(|status| self.failed(&status))
        };
        let answers = tokio::time::timeout(timeout, asked).await;
        let answers = answers.map_err(|_| self.unavailable("it does not answer in time"))??;
        let this = self.clone();
        Ok(answers.into_inner().map(move |answer| match answer {
            Ok(answer) => read(&answer).map_err(|status| this.mismatch(reason_of(&status))),
            Err(status) => Err(this.failed(&status)),
        }))
    }
}
