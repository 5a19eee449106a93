//! Rows from expressions, with sequences read in bulk: a statement reserves what it needs at once.

use std::collections::BTreeMap;

use cortex_functions::{scalar, session::EvalContext};
use cortex_planner::catalog::Sequence;
use cortex_shard_api::{
    Datum, Oid, ScalarExpr,
    client::{Row, SequenceValues},
};

use super::session::Session;
use crate::error::PgError;

/// Values reserved in one request: what the counter's integer type and a sane statement need.
const RESERVE_MAX: u32 = 1 << 20;

/// Evaluates rows whose `nextval` calls are served from values reserved beforehand.
pub(super) struct RowMaker {
    reserved: BTreeMap<Oid, Reserved>,
    session: std::sync::Arc<super::session_functions::SessionHandle>,
}

struct Reserved {
    next: i64,
    increment: i64,
    left: u32,
}

impl RowMaker {
    /// Reserves for rows that are going to be made from these expressions.
    pub async fn new<'a>(
        session: &Session,
        rows: impl Iterator<Item = &'a [ScalarExpr]>,
    ) -> Result<RowMaker, PgError> {
        let mut wanted: BTreeMap<Oid, u32> = BTreeMap::new();
        for expr in rows.flatten() {
            if let Some(sequence) = sequence_of(expr) {
                let count = wanted.entry(sequence).or_default();
                *count = count.saturating_add(1);
            }
        }
        let mut reserved = BTreeMap::new();
        let catalog = session.catalog();
        for (oid, count) in wanted {
            // A sequence that is not there, or that must not run past its end, is left to nextval itself to report.
            let Some(sequence) = catalog.sequences.get(&oid) else { continue };
            if !(2..=RESERVE_MAX).contains(&count) || sequence.spec.cycle {
                continue;
            }
            if let Ok(values) = reserve(session, sequence, count).await {
                let increment = sequence.spec.increment;
                let left = values.count;
                reserved.insert(oid, Reserved { next: values.first, increment, left });
            }
        }
        Ok(RowMaker { reserved, session: session.functions.clone() })
    }

    /// The values of one row.
    pub fn row(
        &mut self,
        exprs: &[ScalarExpr],
        source: &[Datum],
        parameters: &[Datum],
        eval: &EvalContext,
    ) -> Result<Row, PgError> {
        let mut row = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let value = match self.next_value(expr) {
                Some(value) => value,
                None => scalar::evaluate(expr, source, parameters, eval)?,
            };
            row.push(value);
        }
        Ok(row)
    }

    fn next_value(&mut self, expr: &ScalarExpr) -> Option<Datum> {
        if self.reserved.is_empty() {
            return None;
        }
        let oid = sequence_of(expr)?;
        let reserved = self.reserved.get_mut(&oid).filter(|reserved| reserved.left > 0)?;
        let value = reserved.next;
        reserved.next = value.wrapping_add(reserved.increment);
        reserved.left -= 1;
        self.session.note_sequence_value(oid, value);
        match unwrap_cast(expr) {
            Some(cortex_shard_api::SqlType::Int4) => i32::try_from(value).ok().map(Datum::Int4),
            Some(cortex_shard_api::SqlType::Int2) => i16::try_from(value).ok().map(Datum::Int2),
            _ => Some(Datum::Int8(value)),
        }
    }
}

async fn reserve(
    session: &Session,
    sequence: &Sequence,
    count: u32,
) -> Result<SequenceValues, PgError> {
    let shard = session.functions.sequence_shard(sequence);
    Ok(session.gateway.shards.get(shard)?.sequence_next(&sequence.spec, count).await?)
}

/// The sequence that a default such as `nextval('t_id_seq'::regclass)` reads, through a cast to the column's type.
fn sequence_of(expr: &ScalarExpr) -> Option<Oid> {
    match expr {
        ScalarExpr::Cast { arg, .. } => sequence_of(arg),
        ScalarExpr::Call { function, args, .. } if function.starts_with("nextval(") => {
            match &args[..] {
                [ScalarExpr::Literal { value: Datum::Oid(oid), .. }] => Some(Oid(*oid)),
                _ => None,
            }
        }
        // Integer casts may be calls of their own, e.g. `int4(int8)`.
        ScalarExpr::Call { args, function, .. } if function.starts_with("int") => match &args[..] {
            [arg] => sequence_of(arg),
            _ => None,
        },
        _ => None,
    }
}

/// The integer type that the value is cast to.
fn unwrap_cast(expr: &ScalarExpr) -> Option<cortex_shard_api::SqlType> {
    match expr {
        ScalarExpr::Cast { .. } | ScalarExpr::Call { .. } => Some(expr.ty().ty),
        _ => None,
    }
}
