//! Writes and reference tables: a reference table is written on its primary copy alone, the other shards follow its log.
//!
//! Lives here: what a write of a reference table leaves behind in its transaction, and what a table that refers to one must
//! wait for. A referencing row is checked against the copy on its own shard. That is right as long as parents only come:
//! so a row of a reference table that another shard may refer to can neither be deleted nor get another key.

use std::collections::BTreeSet;

use cortex_shard_api::{
    ShardId, TableDescriptor,
    client::{OnConflict, WriteOp},
    descriptor::{ForeignKeyDescriptor, ReferentialAction},
};

use super::{Session, WriteRun};
use crate::error::{PgError, SqlState};

impl Session {
    /// Before a request goes to a shard.
    pub(super) async fn before_write(
        &mut self,
        run: &WriteRun,
        shard: ShardId,
        op: &WriteOp,
    ) -> Result<(), PgError> {
        if run.table.primary_copy().is_some() {
            keep_parents(run, shard, op)?;
            self.ensure_transaction().write_reference(shard);
        }
        self.reach_parents(run, shard).await
    }

    /// Waits until the shard's copies of referenced tables have all that was acknowledged.
    async fn reach_parents(&mut self, run: &WriteRun, shard: ShardId) -> Result<(), PgError> {
        for parent in run.related.iter() {
            let Some(source) = parent.primary_copy().filter(|source| *source != shard) else {
                continue;
            };
            let is_parent = |table: &TableDescriptor| {
                table.foreign_keys.iter().any(|foreign_key| foreign_key.parent == parent.oid)
            };
            let wrote = self.transaction.as_ref().is_some_and(|it| it.wrote_reference(source));
            if wrote && is_parent(&run.table) {
                return Err(PgError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!(
                        "table \"{}\" refers to reference table \"{}\" on shard {shard}, which does not see this \
                         transaction's changes of reference tables yet",
                        run.table.name, parent.name
                    ),
                )
                .with_hint("Commit the changes of reference tables first."));
            }
            if std::iter::once(&run.table).chain(run.related.iter()).any(|it| is_parent(it)) {
                let limit = self.settings.lock_timeout();
                self.gateway.copies.reach(source, shard, limit).await?;
            }
        }
        Ok(())
    }
}

/// What a statement does to rows of a table, itself or by a cascade.
struct Touched<'a> {
    table: &'a TableDescriptor,
    /// Positions of the assigned columns; `None` deletes rows.
    assigned: Option<Vec<usize>>,
}

/// 0A000 for an operation that takes a key away which rows on other shards may refer to.
fn keep_parents(run: &WriteRun, shard: ShardId, op: &WriteOp) -> Result<(), PgError> {
    let assigned = match op {
        WriteOp::Delete { .. } | WriteOp::DeleteByKey { .. } => None,
        WriteOp::Update { assigned, .. } => Some(assigned.clone()),
        WriteOp::UpdateByKey { assignments, .. }
        | WriteOp::Insert { on_conflict: OnConflict::DoUpdate { assignments, .. }, .. } => {
            Some(assignments.iter().map(|(position, _)| *position).collect())
        }
        WriteOp::Insert { .. } => return Ok(()),
    };
    let mut seen = BTreeSet::new();
    let mut open = vec![Touched { table: &run.table, assigned }];
    while let Some(touched) = open.pop() {
        let keys = std::iter::once(&run.table)
            .chain(run.related.iter())
            .flat_map(|child| child.foreign_keys.iter().map(move |key| (child, key)))
            .filter(|(_, key)| key.parent == touched.table.oid);
        for (child, key) in keys {
            let is_key = |position: &usize| key.parent_columns.contains(position);
            if touched.assigned.as_ref().is_some_and(|assigned| !assigned.iter().any(is_key)) {
                continue;
            }
            if child.shards() != [shard] && child.primary_copy() != Some(shard) {
                return Err(referred_to(touched.table, child, key));
            }
            let action = if touched.assigned.is_some() { key.on_update } else { key.on_delete };
            let assigned = match action {
                ReferentialAction::NoAction | ReferentialAction::Restrict => continue,
                ReferentialAction::Cascade if touched.assigned.is_none() => None,
                ReferentialAction::Cascade
                | ReferentialAction::SetNull
                | ReferentialAction::SetDefault => Some(key.columns.clone()),
            };
            // Once for each way in which a foreign key can pass it on.
            if seen.insert((key.oid, assigned.is_none())) {
                open.push(Touched { table: child, assigned });
            }
        }
    }
    Ok(())
}

fn referred_to(
    parent: &TableDescriptor,
    child: &TableDescriptor,
    key: &ForeignKeyDescriptor,
) -> PgError {
    PgError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!(
            "cannot delete or change keys of reference table \"{}\" while table \"{}\" on other shards refers to it",
            parent.name, child.name
        ),
    )
    .with_detail(format!(
        "Foreign key constraint \"{}\" is enforced by each shard of \"{}\" alone.",
        key.name, child.name
    ))
    .with_hint("Drop the constraint first, or keep the row and mark it as no longer in use.")
}
