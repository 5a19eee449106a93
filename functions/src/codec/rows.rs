//! Rows that travel with a fragment, as an Arrow IPC stream.
//!
//! The decoder takes the bytes as they come and never makes room for a length that they only announce.

use std::sync::Arc;

use arrow::{
    buffer::Buffer,
    datatypes::{Schema, SchemaRef},
    ipc::{reader::StreamDecoder, writer::StreamWriter},
    record_batch::RecordBatch,
};
use datafusion::error::DataFusionError;
use datafusion_proto::protobuf;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{CodecError, frame::malformed};
use crate::broadcast_rows::{BROADCAST_BYTES_MAX, BroadcastRowsExec};

/// Rows in memory are bounded; as a stream they have headers too, and may be sliced.
const STREAM_BYTES_MAX: usize = BROADCAST_BYTES_MAX * 2;

#[derive(Debug, Serialize, Deserialize)]
struct Rows<'a> {
    number: usize,
    schema: Vec<u8>,
    #[serde(borrow)]
    stream: &'a [u8],
}

pub(super) fn encode(exec: &BroadcastRowsExec, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some(rows) = exec.rows() else {
        return Err(malformed("broadcast rows that were not collected"));
    };
    let schema: protobuf::Schema = exec
        .schema_ref()
        .as_ref()
        .try_into()
        .map_err(|error| malformed(format!("a schema: {error}")))?;
    let stream = written(exec.schema_ref(), rows).map_err(DataFusionError::from)?;
    if stream.len() > STREAM_BYTES_MAX {
        return Err(CodecError::TooBig { bytes: stream.len() });
    }
    let schema = schema.encode_to_vec();
    let rows = Rows { number: exec.number(), schema, stream: &stream };
    let bytes = postcard::to_stdvec(&rows).map_err(|error| malformed(error.to_string()))?;
    out.extend_from_slice(&bytes);
    Ok(())
}

fn written(
    schema: &SchemaRef,
    rows: &[RecordBatch],
) -> Result<Vec<u8>, datafusion::arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    for batch in rows {
        writer.write(batch)?;
    }
    writer.into_inner()
}

pub(super) fn decode(bytes: &[u8]) -> Result<BroadcastRowsExec, CodecError> {
    let rows: Rows<'_> =
        postcard::from_bytes(bytes).map_err(|error| malformed(format!("rows: {error}")))?;
    if rows.stream.len() > STREAM_BYTES_MAX {
        return Err(CodecError::TooBig { bytes: rows.stream.len() });
    }
    let schema = protobuf::Schema::decode(&rows.schema[..])
        .map_err(|error| malformed(format!("a schema: {error}")))?;
    let schema =
        Schema::try_from(&schema).map_err(|error| malformed(format!("a schema: {error}")))?;
    let mut decoder = StreamDecoder::new();
    let mut left = Buffer::from(rows.stream);
    let mut batches = Vec::new();
    while !left.is_empty() {
        if let Some(batch) = decoder.decode(&mut left).map_err(DataFusionError::from)? {
            batches.push(batch);
        }
    }
    decoder.finish().map_err(DataFusionError::from)?;
    Ok(BroadcastRowsExec::awaited(rows.number, Arc::new(schema)).with_rows(&batches)?)
}
