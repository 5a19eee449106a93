//! Constants in plans.
//!
//! Plain values are datafusion-proto's. It sends nested ones as Arrow IPC, whose reader trusts offsets and lengths; ours are
//! Lists as their elements, one by one: arrays of SQL, and the rows of functions that return records.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, ListArray, StructArray, new_empty_array, new_null_array},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields},
};
use datafusion::{common::ScalarValue, error::DataFusionError};
use datafusion_proto::protobuf;
use datafusion_proto_common::scalar_value::Value;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{CodecError, frame::malformed, kinds::CONSTANT};

pub(super) enum Encoded {
    Plain(protobuf::ScalarValue),
    Nested(Vec<u8>),
}

/// A List; `None` is NULL.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    item: Vec<u8>,
    elements: Option<Vec<Element>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Element {
    Plain(Vec<u8>),
    /// The values of a record; `None` is NULL.
    Record(Option<Vec<Vec<u8>>>),
}

pub(super) fn encode(value: &ScalarValue) -> Result<Encoded, CodecError> {
    let ScalarValue::List(list) = value else { return Ok(Encoded::Plain(plain(value)?)) };
    let DataType::List(item) = list.data_type() else { return Err(unsupported(value)) };
    let item: protobuf::Field =
        item.as_ref().try_into().map_err(|error| malformed(format!("a field: {error}")))?;
    let elements = match list.is_null(0) {
        true => None,
        false => Some(elements(&list.value(0))?),
    };
    let list = List { item: item.encode_to_vec(), elements };
    let bytes = postcard::to_stdvec(&list).map_err(|error| malformed(error.to_string()))?;
    Ok(Encoded::Nested([&[CONSTANT][..], &bytes].concat()))
}

fn elements(values: &ArrayRef) -> Result<Vec<Element>, CodecError> {
    let plain_at = |array: &ArrayRef, row: usize| -> Result<Vec<u8>, CodecError> {
        Ok(plain(&ScalarValue::try_from_array(array, row)?)?.encode_to_vec())
    };
    let records = values.as_any().downcast_ref::<StructArray>();
    (0..values.len())
        .map(|row| match records {
            Some(records) if records.is_null(row) => Ok(Element::Record(None)),
            Some(records) => {
                let values = records.columns().iter().map(|column| plain_at(column, row));
                Ok(Element::Record(Some(values.collect::<Result<_, _>>()?)))
            }
            None => Ok(Element::Plain(plain_at(values, row)?)),
        })
        .collect()
}

fn plain(value: &ScalarValue) -> Result<protobuf::ScalarValue, CodecError> {
    let node: protobuf::ScalarValue = value.try_into().map_err(|_| unsupported(value))?;
    check(&node)?;
    Ok(node)
}

fn unsupported(value: &ScalarValue) -> CodecError {
    CodecError::Constant(value.data_type().to_string())
}

/// Whether the message is a value without others inside.
fn check(node: &protobuf::ScalarValue) -> Result<(), CodecError> {
    match &node.value {
        Some(
            Value::ListValue(_)
            | Value::LargeListValue(_)
            | Value::FixedSizeListValue(_)
            | Value::ListViewValue(_)
            | Value::LargeListViewValue(_)
            | Value::StructValue(_)
            | Value::MapValue(_)
            | Value::UnionValue(_)
            | Value::DictionaryValue(_)
            | Value::RunEndEncodedValue(_),
        ) => Err(CodecError::Constant("a nested type".to_owned())),
        Some(_) => Ok(()),
        None => Err(malformed("a constant without a value")),
    }
}

pub(super) fn decode_plain(node: &protobuf::ScalarValue) -> Result<ScalarValue, CodecError> {
    check(node)?;
    ScalarValue::try_from(node).map_err(|error| malformed(format!("a constant: {error}")))
}

pub(super) fn decode_nested(bytes: &[u8]) -> Result<ScalarValue, CodecError> {
    let list: List =
        postcard::from_bytes(bytes).map_err(|error| malformed(format!("a constant: {error}")))?;
    let item = protobuf::Field::decode(&list.item[..])
        .map_err(|error| malformed(format!("a field: {error}")))?;
    let item: FieldRef =
        Arc::new(Field::try_from(&item).map_err(|error| malformed(format!("a field: {error}")))?);
    let Some(elements) = list.elements else {
        return Ok(ScalarValue::List(Arc::new(ListArray::new_null(item, 1))));
    };
    let values = match item.data_type() {
        DataType::Struct(fields) => records(fields, elements)?,
        ty => {
            let values = elements
                .into_iter()
                .map(|element| match element {
                    Element::Plain(bytes) => read_plain(&bytes),
                    Element::Record(_) => Err(malformed("a record among plain values")),
                })
                .collect::<Result<Vec<_>, _>>()?;
            column(ty, values)?
        }
    };
    let offsets = OffsetBuffer::<i32>::from_lengths([values.len()]);
    let list = ListArray::try_new(item, offsets, values, None).map_err(DataFusionError::from)?;
    Ok(ScalarValue::List(Arc::new(list)))
}

fn read_plain(bytes: &[u8]) -> Result<ScalarValue, CodecError> {
    let node = protobuf::ScalarValue::decode(bytes)
        .map_err(|error| malformed(format!("a constant: {error}")))?;
    decode_plain(&node)
}

fn column(ty: &DataType, values: Vec<ScalarValue>) -> Result<ArrayRef, CodecError> {
    if values.iter().any(|value| value.data_type() != *ty) {
        return Err(malformed("a constant of another type than its field's"));
    }
    match values.is_empty() {
        true => Ok(new_empty_array(ty)),
        false => Ok(ScalarValue::iter_to_array(values)?),
    }
}

fn records(fields: &Fields, elements: Vec<Element>) -> Result<ArrayRef, CodecError> {
    let n_rows = elements.len();
    let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(n_rows); fields.len()];
    let mut valid = Vec::with_capacity(n_rows);
    for element in elements {
        match element {
            Element::Record(Some(values)) if values.len() == fields.len() => {
                for (column, value) in columns.iter_mut().zip(values) {
                    column.push(read_plain(&value)?);
                }
                valid.push(true);
            }
            Element::Record(None) => {
                for (column, field) in columns.iter_mut().zip(fields) {
                    let null = new_null_array(field.data_type(), 1);
                    column.push(ScalarValue::try_from_array(&null, 0)?);
                }
                valid.push(false);
            }
            Element::Record(_) | Element::Plain(_) => {
                return Err(malformed("a record of other columns"));
            }
        }
    }
    let columns = columns
        .into_iter()
        .zip(fields)
        .map(|(values, field)| column(field.data_type(), values))
        .collect::<Result<Vec<_>, _>>()?;
    let nulls = Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0);
    let records = StructArray::try_new(fields.clone(), columns, nulls);
    Ok(Arc::new(records.map_err(DataFusionError::from)?))
}
