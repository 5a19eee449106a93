//! UPDATE and DELETE of few rows without their query: found by an index or a part of the primary key, read as they are
//! stored, computed here.
//!
//! The analytic road takes longer to plan than these rows take to read and write. Whether they are few is known only with
//! the parameters, so the query stays at hand. What the shard does with them is the same: a row that is not what was read
//! makes the statement run again.

use cortex_functions::{scalar, session::EvalContext};
use cortex_planner::{
    bind::write::Direct,
    route::{self, Path, Route},
};
use cortex_shard_api::{
    Datum, LogIndex, TableDescriptor,
    client::{Key, Row, ScanRowsRequest, ScanSpec},
    row,
};

use super::{Session, WriteRun};
use crate::{error::PgError, exec::fast::is_true};

/// Rows of one shard that are looked at the most. More are better read in batches, by the shards themselves.
const ROWS_MAX: usize = 500;

/// A row that the statement changes.
pub(super) struct DirectRow {
    pub key: Key,
    pub version: LogIndex,
    row: Row,
}

impl DirectRow {
    /// The row as UPDATE leaves it.
    pub fn assigned(&self, direct: &Direct, run: &WriteRun) -> Result<Row, PgError> {
        let mut new = self.row.clone();
        new.resize(run.table.columns.len(), Datum::Null);
        for (position, expr) in &direct.assignments {
            new[*position] = scalar::evaluate(expr, &self.row, &run.parameters, &run.eval)?;
        }
        Ok(new)
    }
}

impl Session {
    /// The rows that the statement changes, on the newest state of each shard; `None` if too many would have to be read.
    pub(super) async fn find_directly(
        &self,
        direct: &Direct,
        run: &WriteRun,
    ) -> Result<Option<Vec<DirectRow>>, PgError> {
        let table = &run.table;
        let Some(route) = self.direct_route(direct, table, &run.parameters, &run.eval).await?
        else {
            return Ok(None);
        };
        // All are read before the first is looked at: WHERE may have effects, which must not come twice.
        let mut read = Vec::new();
        for scan in route.scans {
            let spec = ScanSpec {
                table: table.clone(),
                columns: Vec::new(),
                with_identity: true,
                access: scan.access,
                limit: Some(ROWS_MAX + 1),
                batch_rows: ROWS_MAX + 1,
            };
            let request = ScanRowsRequest { context: self.read_base(), spec, reverse: false };
            let stored = self.gateway.shards.get(scan.shard)?.scan_rows(request).await?;
            if stored.len() > ROWS_MAX {
                return Ok(None);
            }
            read.extend(stored);
        }
        let mut found = Vec::new();
        for stored in read {
            let row = row::decode(table, &stored.value)?;
            if let Some(predicate) = &direct.predicate
                && !is_true(&scalar::evaluate(predicate, &row, &run.parameters, &run.eval)?)
            {
                continue;
            }
            found.push(DirectRow { key: stored.key, version: stored.version, row });
        }
        self.gateway.counters.count_fast_statement();
        Ok(Some(found))
    }

    /// Where the rows are looked for; `None` if the table is too large to be read whole and nothing narrows the search.
    pub(in crate::exec) async fn direct_route(
        &self,
        direct: &Direct,
        table: &TableDescriptor,
        parameters: &[Datum],
        eval: &EvalContext,
    ) -> Result<Option<Route>, PgError> {
        let route = route::for_scalar(table, direct.predicate.as_ref(), parameters, eval);
        match route.path {
            Path::Empty
            | Path::KeyPoints(_)
            | Path::KeyRanges
            | Path::KeySkips
            | Path::Index { .. } => {}
            Path::Full | Path::Slots(_) => {
                for scan in &route.scans {
                    let client = self.gateway.shards.get(scan.shard)?;
                    if client.storage_stats(table.storage).await?.rows > ROWS_MAX as u64 {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(route))
    }
}
