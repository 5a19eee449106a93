//! SELECT under `cortex.partial_reads = 'allow'`: without the shards that are down, and with a NOTICE that names them.
//!
//! A shard that cannot be reached before the first row has come is left out of the whole statement, which is planned and run anew:
//! no part of an answer knows rows of a shard that another part does without. One that is lost later is an error, for rows have
//! been sent. Without the shard of a reference table's primary copy another copy is read, and if nobody can tell whether it is up
//! to date, a NOTICE says that. Only plain SELECT and COPY TO come here: what a write reads is always whole. Not here: which plans may do
//! without shards (`planner::operators::partial`).

use std::collections::{BTreeMap, BTreeSet};

use cortex_planner::operators::partial::{Needed, can_leave_out, shards_of};
use cortex_shard_api::{
    Datum, ShardError, ShardId, SqlType,
    client::{GetRequest, StoredRow},
};
use futures::{StreamExt, stream};

use super::{
    plan::QueryPlan,
    query::{Batches, physical_plan},
    session::Session,
};
use crate::{error::PgError, statement::Notice};

/// The SQLSTATE of the NOTICE: a program can tell it from others.
const PARTIAL_ANSWER: &str = "CX002";

/// The SQLSTATE of the NOTICE for copies of reference tables that may be behind.
const PERHAPS_BEHIND: &str = "CX003";

/// Shards that a statement found down, with what each said.
type Missing = BTreeMap<ShardId, PgError>;

impl Session {
    pub(super) async fn run_partially(
        &mut self,
        query: &QueryPlan,
        types: &[SqlType],
        parameters: &[Datum],
    ) -> Result<Batches, PgError> {
        let mut missing = Missing::new();
        loop {
            let left_out: BTreeSet<ShardId> = missing.keys().copied().collect();
            let run = self.query_run_without(self.read_base(), left_out.clone())?;
            let physical = physical_plan(&run, query, types, parameters).await?;
            if let Err(needed) = can_leave_out(&physical, &left_out)
                && let Some((_, error)) = missing.pop_first()
            {
                return Err(not_without(error, needed));
            }
            let read = shards_of(&physical);
            let found = match run.open(&physical).await {
                Ok(()) => match run.first_answers(physical).await {
                    Err(error) => vec![error],
                    Ok(mut batches) => match batches.next().await {
                        Some(Err(error)) => vec![error],
                        first => {
                            self.notices.extend(notice(&missing, &read));
                            self.notices.extend(behind_notice(&run.context.unasked()));
                            return Ok(Box::pin(stream::iter(first).chain(batches)));
                        }
                    },
                },
                Err(found) => found,
            };
            for error in found {
                match error.down {
                    // Each round leaves out one more, so this ends. Copies on others may say it, too.
                    Some(shard) if !left_out.contains(&shard) && !self.wrote_on(shard) => {
                        missing.entry(shard).or_insert(error);
                    }
                    _ => return Err(error),
                }
            }
        }
    }

    /// A row of a reference table by its key, while the shard of the primary copy is down: from the first other copy that is there.
    /// `None` if that is not what was asked for.
    pub(super) async fn get_from_copies(
        &mut self,
        request: GetRequest,
        error: &PgError,
    ) -> Result<Option<Vec<Option<StoredRow>>>, PgError> {
        let is_asked_for = self.settings.get("cortex.partial_reads").as_deref() == Some("allow");
        let Some(source) = request.table.primary_copy().filter(|it| error.down == Some(*it)) else {
            return Ok(None);
        };
        if !is_asked_for || self.reads_primary_only() || self.wrote_on(source) {
            return Ok(None);
        }
        for copy in request.table.shards().into_iter().filter(|copy| *copy != source) {
            let limit = self.settings.lock_timeout();
            let mut unasked = BTreeSet::new();
            match self.gateway.copies.reach(source, copy, limit).await {
                Ok(()) => {}
                Err(ShardError::Unavailable { shard, .. }) if shard == source => {
                    unasked.insert(source);
                }
                Err(ShardError::Unavailable { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.gateway.shards.get(copy)?.get(request.clone()).await {
                Ok(found) => {
                    self.notices.extend(behind_notice(&unasked));
                    return Ok(Some(found));
                }
                Err(ShardError::Unavailable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A transaction must see what it wrote.
    fn wrote_on(&self, shard: ShardId) -> bool {
        self.transaction.as_ref().is_some_and(|it| it.touched().contains(&shard))
    }
}

fn not_without(error: PgError, needed: Needed) -> PgError {
    match needed {
        Needed::Alone => error.with_hint(
            "cortex.partial_reads does not help here: a part of the statement reads no other shard. Bring it back and repeat.",
        ),
        Needed::Absence => error.with_hint(
            "cortex.partial_reads does not help here: NOT EXISTS, EXCEPT or an outer join would give rows that the whole \
             answer does not have. Bring the shard back and repeat.",
        ),
    }
}

/// Of the missing shards those that the plan reads: instead of others, copies elsewhere were read.
fn notice(missing: &Missing, read: &BTreeSet<ShardId>) -> Option<Notice> {
    let missing = || missing.iter().filter(|(shard, _)| read.contains(shard));
    let names: Vec<String> = missing().map(|(shard, _)| format!("shard {shard}")).collect();
    if names.is_empty() {
        return None;
    }
    let reasons: Vec<&str> = missing().map(|(_, error)| error.message.as_str()).collect();
    Some(Notice {
        severity: "NOTICE",
        code: PARTIAL_ANSWER,
        message: format!("the answer is partial: without the rows of {}", names.join(", ")),
        detail: Some(reasons.join("\n")),
        hint: Some("SET cortex.partial_reads = 'refuse' makes this an error.".to_owned()),
    })
}

fn behind_notice(sources: &BTreeSet<ShardId>) -> Option<Notice> {
    let names: Vec<String> = sources.iter().map(|shard| format!("shard {shard}")).collect();
    if names.is_empty() {
        return None;
    }
    let names = names.join(", ");
    Some(Notice {
        severity: "NOTICE",
        code: PERHAPS_BEHIND,
        message: format!(
            "copies of reference tables were read that may lack the latest changes of {names}"
        ),
        detail: Some(format!(
            "The primary copies are on {names}, which cannot be asked. What was committed there before it was lost, and had not \
             reached the copies, is missing."
        )),
        hint: Some("SET cortex.partial_reads = 'refuse' makes this an error.".to_owned()),
    })
}
