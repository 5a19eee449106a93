//! One session's transaction: which shards it wrote on, its marks and savepoints, and how it ends.
//!
//! A transaction exists on a shard from the first write or lock there; reads elsewhere need none. Each shard commits on its
//! own (there is no two-phase commit), and what happened is reported: all of it (success), none of it (the first
//! error), some of it (CX001), or not known (40003).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cortex_shard_api::{ShardError, ShardId, TxnId, client::ShardClient};
use futures::future::join_all;

use crate::{
    cluster::Shards,
    error::{PgError, SqlState},
};

/// Before a commit over several shards each must answer within this; then none is committed.
const VALIDATE_WAIT_MAX: Duration = Duration::from_secs(10);

/// A session whose transaction is over goes on after this, whatever a shard that was told does.
const ROLLBACK_WAIT_MAX: Duration = Duration::from_secs(1);

/// Savepoints inside each other in one transaction.
const SAVEPOINTS_MAX: usize = 10_000;

/// How a transaction began, which decides how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// One statement, or the statements up to Sync.
    Implicit,
    /// BEGIN ... COMMIT.
    Explicit,
}

/// The open transaction of a session.
#[derive(Debug)]
pub(super) struct Transaction {
    pub id: TxnId,
    pub block: Block,
    pub failed: bool,
    pub read_only: bool,
    /// `now()`: microseconds since 1970-01-01 UTC.
    pub started_micros: i64,
    /// Counts statements and savepoints; shards tag what they write with it.
    pub mark: u32,
    /// Shards that know the transaction, because it wrote or locked there.
    touched: BTreeSet<ShardId>,
    /// Shards on which it wrote primary copies of reference tables.
    references: BTreeSet<ShardId>,
    savepoints: Vec<(String, u32)>,
}

impl Transaction {
    pub fn new(id: TxnId, block: Block, started_micros: i64) -> Transaction {
        Transaction {
            id,
            block,
            failed: false,
            read_only: false,
            started_micros,
            mark: 0,
            touched: BTreeSet::new(),
            references: BTreeSet::new(),
            savepoints: Vec::new(),
        }
    }

    /// Starts a statement: what follows carries a mark of its own.
    pub fn next_mark(&mut self) -> u32 {
        self.mark += 1;
        self.mark
    }

    /// Whether it wrote or locked anywhere else.
    pub fn touches_another(&self, shard: ShardId) -> bool {
        self.touched.iter().any(|touched| *touched != shard)
    }

    /// Before the first write or lock on a shard.
    pub fn touch(&mut self, shard: ShardId) {
        self.touched.insert(shard);
    }

    /// Before a write to a reference table, whose primary copy is on this shard.
    pub fn write_reference(&mut self, primary: ShardId) {
        self.references.insert(primary);
    }

    /// Whether it wrote reference tables whose primary copies are on this shard: copies do not show that yet.
    pub fn wrote_reference(&self, primary: ShardId) -> bool {
        self.references.contains(&primary)
    }

    pub fn touched(&self) -> &BTreeSet<ShardId> {
        &self.touched
    }

    /// SAVEPOINT name; returns the mark that the name stands for.
    pub fn savepoint(&mut self, name: &str) -> Result<u32, PgError> {
        if self.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(PgError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a transaction can have at most {SAVEPOINTS_MAX} savepoints"),
            ));
        }
        let mark = self.next_mark();
        self.savepoints.push((name.to_owned(), mark));
        Ok(mark)
    }

    /// RELEASE name: forgets it and all savepoints after it; returns its mark.
    pub fn release(&mut self, name: &str) -> Result<u32, PgError> {
        let position = self.find(name)?;
        let mark = self.savepoints[position].1;
        self.savepoints.truncate(position);
        Ok(mark)
    }

    /// ROLLBACK TO name: undoes what came after it on every shard; the savepoint stays. Returns its mark.
    pub async fn rollback_to(&mut self, name: &str, shards: &Shards) -> Result<u32, PgError> {
        let position = self.find(name)?;
        let mark = self.savepoints[position].1;
        self.savepoints.truncate(position + 1);
        self.undo(mark, shards).await?;
        self.failed = false;
        Ok(mark)
    }

    /// Undoes everything with this mark or a later one, on every shard.
    pub async fn undo(&self, mark: u32, shards: &Shards) -> Result<(), PgError> {
        let undone = self.clients(shards)?;
        let undone = undone.iter().map(|client| client.rollback_to(self.id, mark));
        for result in join_all(undone).await {
            result?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, PgError> {
        self.savepoints.iter().rposition(|(saved, _)| saved == name).ok_or_else(|| {
            PgError::new(
                SqlState::INVALID_SAVEPOINT,
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }

    fn clients(&self, shards: &Shards) -> Result<Vec<Arc<dyn ShardClient>>, PgError> {
        self.touched.iter().map(|shard| shards.get(*shard)).collect()
    }

    /// Shards on which it wrote primary copies of reference tables.
    pub fn references(&self) -> &BTreeSet<ShardId> {
        &self.references
    }

    /// Commits on every shard that it touched. `limit`: how long a shard may take to say that it could.
    pub async fn commit(self, shards: &Shards, limit: Option<Duration>) -> Result<(), PgError> {
        let clients = self.clients(shards)?;
        if let [client] = &clients[..] {
            return match client.commit(self.id).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    // Best effort: the shard has undone it already, or is gone, or never got the commit, and then
                    // would keep the locks for ever. To a transaction that was committed it does nothing.
                    self.rollback(shards).await;
                    Err(error.into())
                }
            };
        }
        // Every shard is asked before the first one commits: what can be refused is refused while nothing is done.
        let limit = limit.unwrap_or(VALIDATE_WAIT_MAX).min(VALIDATE_WAIT_MAX);
        let validated = join_all(clients.iter().map(|client| {
            let txn = self.id;
            async move {
                let asked = tokio::time::timeout(limit, client.validate(txn)).await;
                asked.unwrap_or_else(|_| Err(no_answer(client.id(), limit)))
            }
        }));
        let validated = validated.await;
        if let Some(error) = validated.into_iter().find_map(Result::err) {
            self.rollback(shards).await;
            return Err(error.into());
        }
        let outcomes = join_all(clients.iter().map(|client| client.commit(self.id))).await;
        let outcomes: Vec<(ShardId, Result<(), ShardError>)> = clients
            .iter()
            .zip(outcomes)
            .map(|(client, outcome)| (client.id(), outcome.map(|_| ())))
            .collect();
        let result = report(&outcomes);
        if result.is_err() {
            self.rollback(shards).await;
        }
        result
    }

    /// Rolls back everywhere. Nothing can be done about a shard that does not answer: without a commit it forgets the transaction.
    /// The client does not wait for one; it is told in the background, if it comes back.
    pub async fn rollback(&self, shards: &Shards) {
        let txn = self.id;
        let told = self.touched.iter().filter_map(|shard| shards.get(*shard).ok()).map(|client| {
            tokio::spawn(async move {
                if let Err(error) = client.rollback(txn).await {
                    tracing::debug!(shard_id = client.id().0, %error, "rollback was not acknowledged");
                }
            })
        });
        let told: Vec<_> = told.collect();
        let _ = tokio::time::timeout(ROLLBACK_WAIT_MAX, join_all(told)).await;
    }
}

fn no_answer(shard: ShardId, waited: Duration) -> ShardError {
    let reason = format!("it did not answer within {} ms", waited.as_millis());
    ShardError::Unavailable { shard, reason }
}

/// What a multi-shard commit comes to.
///
/// - all committed: success
/// - none committed: the first error, as if one shard had failed
/// - some committed, some failed: CX001 with one DETAIL line per shard
/// - any not known: 40003 with the same lines
pub(super) fn report(outcomes: &[(ShardId, Result<(), ShardError>)]) -> Result<(), PgError> {
    let failures: Vec<&ShardError> =
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    let Some(first) = failures.first() else { return Ok(()) };
    let is_unknown = |error: &&ShardError| matches!(error, ShardError::OutcomeUnknown { .. });
    let unknown = failures.iter().any(is_unknown);
    if failures.len() == outcomes.len() && !unknown {
        return Err((*first).clone().into());
    }
    let detail: Vec<String> = outcomes
        .iter()
        .map(|(shard, outcome)| match outcome {
            Ok(()) => format!("Shard {shard}: committed."),
            Err(ShardError::OutcomeUnknown { .. }) => format!("Shard {shard}: outcome not known."),
            Err(error) => format!("Shard {shard}: not committed: {error}."),
        })
        .collect();
    let (code, message, hint) = if unknown {
        (
            SqlState::STATEMENT_COMPLETION_UNKNOWN,
            "the outcome of a commit over several shards is not known",
            "Read the rows back before you decide; running the transaction again may apply it twice.",
        )
    } else {
        (
            SqlState::PARTIAL_COMMIT,
            "the transaction was committed on some shards and failed on others",
            "There are no distributed transactions: repair or repeat what the failed shards miss. \
             SET cortex.multi_shard_writes = 'strict' refuses such transactions beforehand.",
        )
    };
    Err(PgError::new(code, message).with_detail(detail.join("\n")).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(shard: u32) -> (ShardId, Result<(), ShardError>) {
        let reason = "disk full".to_owned();
        (ShardId(shard), Err(ShardError::Poisoned { shard: ShardId(shard), reason }))
    }

    fn unknown(shard: u32) -> (ShardId, Result<(), ShardError>) {
        (ShardId(shard), Err(ShardError::OutcomeUnknown { shard: ShardId(shard) }))
    }

    fn code(outcomes: &[(ShardId, Result<(), ShardError>)]) -> Option<&'static str> {
        report(outcomes).err().map(|error| error.code.0)
    }

    #[test]
    fn a_multi_shard_commit_is_reported_for_what_it_is() {
        let ok = |shard| (ShardId(shard), Ok(()));
        assert_eq!(code(&[ok(1), ok(2)]), None);
        assert_eq!(code(&[failed(1), failed(2)]), Some("58000"));
        assert_eq!(code(&[ok(1), failed(2)]), Some("CX001"));
        assert_eq!(code(&[ok(1), unknown(2)]), Some("40003"));
        assert_eq!(code(&[unknown(1), failed(2)]), Some("40003"));
        let error = report(&[ok(1), failed(2)]).expect_err("partial");
        assert!(
            error
                .detail
                .as_deref()
                .is_some_and(|it| it.starts_with("Shard 1: committed.\nShard 2: not"))
        );
    }
}
