//! A state as a DataFusion aggregate: plain, merged from partial states, and over moving window frames.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    mem::size_of_val,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::SortOptions,
    datatypes::{DataType, Field, FieldRef},
    row::{RowConverter, SortField},
};
use cortex_shard_api::{
    Datum,
    value::arrow::{array_from_datums, arrow_type, datum_at},
};
use datafusion::{
    common::{ScalarValue, internal_err},
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDFImpl, Signature, Volatility,
        expr::AggregateFunctionParams,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
};

use super::{Spec, collect, saved::State};
use crate::lower::udf::{expected, external, schema_name};

#[derive(Debug)]
pub(crate) struct StateUdaf {
    pub spec: Spec,
    signature: Signature,
}

impl PartialEq for StateUdaf {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl Eq for StateUdaf {}

impl Hash for StateUdaf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.hash(state);
    }
}

impl StateUdaf {
    pub(super) fn new(spec: Spec) -> StateUdaf {
        let keys = if spec.ordered_set { 0 } else { spec.order.len() };
        let signature = Signature::any(spec.args.len() + keys, Volatility::Immutable);
        StateUdaf { spec, signature }
    }

    fn described(&self) -> String {
        let mut name = self.spec.name.clone();
        for ty in &self.spec.args {
            name.push('_');
            name.push_str(ty.catalog_name());
        }
        if self.spec.distinct {
            name.push_str("_distinct");
        }
        for order in &self.spec.order {
            name.push_str(if order.ascending { "_asc" } else { "_desc" });
            name.push_str(if order.nulls_first { "_first" } else { "_last" });
        }
        name
    }
}

impl AggregateUDFImpl for StateUdaf {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        let mut name = schema_name(&self.described(), &params.args)?;
        if let Some(filter) = &params.filter {
            name.push_str(&format!(" FILTER (WHERE {})", filter.schema_name()));
        }
        Ok(name)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.schema_name(params)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(arrow_type(self.spec.returns))
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(StateAccumulator {
            reader: Reader::new(&self.spec),
            state: self.fresh()?,
            returns: self.spec.returns,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[state]", args.name), DataType::Binary, true))])
    }

    fn create_sliding_accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SlidingAccumulator {
            reader: Reader::new(&self.spec),
            rows: VecDeque::new(),
            spec: self.spec.clone(),
        }))
    }
}

impl StateUdaf {
    fn fresh(&self) -> Result<Box<dyn State>> {
        fresh(&self.spec)
    }
}

fn fresh(spec: &Spec) -> Result<Box<dyn State>> {
    match collect::state(spec) {
        Some(state) => Ok(state),
        None => internal_err!("no state for the aggregate {}", spec.name),
    }
}

/// Reads rows of arguments from columns, the sort keys as one more argument.
#[derive(Debug)]
struct Reader {
    spec: Spec,
    converter: Option<RowConverter>,
}

impl Reader {
    fn new(spec: &Spec) -> Reader {
        Reader { spec: spec.clone(), converter: None }
    }

    fn rows(&mut self, values: &[ArrayRef]) -> Result<Vec<Vec<Datum>>> {
        let types = collect::value_types(&self.spec);
        let columns = values
            .iter()
            .zip(types)
            .map(|(array, ty)| expected(array.clone(), *ty))
            .collect::<Result<Vec<_>>>()?;
        let n_rows = values.first().map_or(0, |column| column.len());
        let mut rows = Vec::with_capacity(n_rows);
        for row in 0..n_rows {
            let args = columns
                .iter()
                .zip(types)
                .map(|(column, ty)| datum_at(column, row, *ty).map_err(external))
                .collect::<Result<Vec<_>>>()?;
            rows.push(args);
        }
        let keys = &values[types.len().min(values.len())..];
        if !keys.is_empty() {
            let converted = self.converter(keys)?.convert_columns(keys)?;
            for (row, key) in rows.iter_mut().zip(converted.iter()) {
                row.push(Datum::Bytea(key.as_ref().into()));
            }
        }
        Ok(rows)
    }

    fn converter(&mut self, keys: &[ArrayRef]) -> Result<&RowConverter> {
        let fields = || {
            keys.iter()
                .zip(&self.spec.order)
                .map(|(key, order)| {
                    let options = SortOptions {
                        descending: !order.ascending,
                        nulls_first: order.nulls_first,
                    };
                    SortField::new_with_options(key.data_type().clone(), options)
                })
                .collect::<Vec<_>>()
        };
        match &mut self.converter {
            Some(converter) => Ok(converter),
            empty => Ok(empty.insert(RowConverter::new(fields())?)),
        }
    }
}

fn scalar(value: &Datum, ty: cortex_shard_api::SqlType) -> Result<ScalarValue> {
    let array = array_from_datums(ty, std::slice::from_ref(value)).map_err(external)?;
    ScalarValue::try_from_array(&array, 0)
}

#[derive(Debug)]
struct StateAccumulator {
    reader: Reader,
    state: Box<dyn State>,
    returns: cortex_shard_api::SqlType,
}

impl Accumulator for StateAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for row in self.reader.rows(values)? {
            self.state.update(&row).map_err(external)?;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for saved in states[0].as_binary::<i32>().iter().flatten() {
            self.state.merge(&mut &*saved).map_err(external)?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut out = Vec::new();
        self.state.save(&mut out);
        Ok(vec![ScalarValue::Binary(Some(out))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        scalar(&self.state.finish().map_err(external)?, self.returns)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.state.size()
    }
}

/// Keeps the frame's rows and computes anew each time it is asked: right for every state, whatever cannot be taken out again.
#[derive(Debug)]
struct SlidingAccumulator {
    reader: Reader,
    rows: VecDeque<Vec<Datum>>,
    spec: Spec,
}

impl Accumulator for SlidingAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rows.extend(self.reader.rows(values)?);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let n_rows = values.first().map_or(0, |column| column.len());
        self.rows.drain(..n_rows.min(self.rows.len()));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
        internal_err!("window frames have no partial states")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("window frames have no partial states")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut state = fresh(&self.spec)?;
        for row in &self.rows {
            state.update(row).map_err(external)?;
        }
        scalar(&state.finish().map_err(external)?, self.spec.returns)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.len() * size_of::<Vec<Datum>>()
    }
}
