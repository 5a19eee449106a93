//! The fast path of reads: one row by primary key, without DataFusion and Arrow.

use std::sync::Arc;

use cortex_functions::{scalar, session::EvalContext};
use cortex_planner::bind::fast::FastSelect;
use cortex_shard_api::{
    Datum, ScalarExpr,
    client::{GetRequest, Key, Row},
    descriptor::{Placement, TableDescriptor},
    key, row,
};

use super::session::Session;
use crate::{
    error::PgError,
    statement::{Execution, RowSource, RowsTag},
};

impl Session {
    pub async fn run_fast_select(
        &mut self,
        fast: &FastSelect,
        parameters: &[Datum],
    ) -> Result<Execution, PgError> {
        self.gateway.counters.count_fast_statement();
        let eval = self.eval_context();
        let table = &fast.table.descriptor;
        let rows = match primary_key(&fast.key, parameters, &eval, table)? {
            Some(key) => self.get_row(fast, key, parameters, &eval).await?,
            None => Vec::new(),
        };
        Ok(Execution::Rows {
            columns: fast.columns.clone(),
            rows: RowSource::Rows(rows.into_iter()),
            tag: RowsTag::Select,
        })
    }

    async fn get_row(
        &mut self,
        fast: &FastSelect,
        key: Key,
        parameters: &[Datum],
        eval: &EvalContext,
    ) -> Result<Vec<Row>, PgError> {
        let table = &fast.table.descriptor;
        let shard = match &table.placement {
            Placement::Home(shard) => *shard,
            Placement::Reference(_) | Placement::Hash { .. } | Placement::Range { .. } => {
                key::shard_of_key(table, &key)
            }
        };
        let request =
            GetRequest { context: self.read_base(), table: table.clone(), keys: vec![key] };
        // Only a reference table can be read elsewhere.
        let again = table.primary_copy().map(|_| request.clone());
        let found = match self.gateway.shards.get(shard)?.get(request).await {
            Ok(found) => found,
            Err(error) => {
                let error = PgError::from(error);
                let Some(request) = again else { return Err(error) };
                self.get_from_copies(request, &error).await?.ok_or(error)?
            }
        };
        let Some(Some(stored)) = found.into_iter().next() else { return Ok(Vec::new()) };
        if let (Some(columns), None) = (&fast.plain_columns, &fast.predicate) {
            return Ok(vec![row::decode_columns(table, &stored.value, columns)?]);
        }
        let full = row::decode(table, &stored.value)?;
        if let Some(predicate) = &fast.predicate
            && !is_true(&scalar::evaluate(predicate, &full, parameters, eval)?)
        {
            return Ok(Vec::new());
        }
        let values = fast.projection.iter().map(|it| scalar::evaluate(it, &full, parameters, eval));
        Ok(vec![values.collect::<Result<Row, _>>()?])
    }
}

pub(in crate::exec) fn is_true(value: &Datum) -> bool {
    matches!(value, Datum::Bool(true))
}

/// The row key of primary key expressions; `None` if one is NULL, which equals nothing.
pub(super) fn primary_key(
    exprs: &[ScalarExpr],
    parameters: &[Datum],
    eval: &EvalContext,
    table: &Arc<TableDescriptor>,
) -> Result<Option<Key>, PgError> {
    let mut values = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let value = match expr {
            ScalarExpr::Parameter { index, .. } => {
                parameters.get(*index).cloned().unwrap_or_default()
            }
            ScalarExpr::Literal { value, .. } => value.clone(),
            other => scalar::evaluate(other, &[], parameters, eval)?,
        };
        if matches!(value, Datum::Null) {
            return Ok(None);
        }
        values.push(value);
    }
    Ok(Some(key::row_key_from_primary_key(table, &values)))
}
