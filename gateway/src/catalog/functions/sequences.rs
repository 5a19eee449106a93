//! nextval, currval, setval, lastval.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cortex_planner::catalog::Sequence;
use cortex_shard_api::{
    Datum, ShardError, ShardId, ValueError, ValueErrorKind,
    client::{SequenceSpec, SequenceState, ShardClient},
};

use super::{Call, Result, ask, shard_error};
use crate::error::PgError;

/// A sequence's shard answers in milliseconds; a thread that waits for it can do nothing else.
const SEQUENCE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Between a sequence's end on one shard and the catalog that names the other; a few milliseconds.
const MOVE_PAUSE: Duration = Duration::from_millis(5);

impl Call<'_> {
    fn sequence(&self) -> Result<Arc<Sequence>> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        if let Some(sequence) = catalog.sequences.get(&oid) {
            return Ok(sequence.clone());
        }
        Err(match super::names::relation_name(self.session, &catalog, oid) {
            Some(name) => ValueError::new(
                ValueErrorKind::WrongObjectType,
                format!("\"{name}\" is not a sequence"),
            ),
            None => ValueError::new(
                ValueErrorKind::UndefinedTable,
                format!("could not open relation with OID {oid}"),
            ),
        })
    }

    /// Asks the sequence's shard: where it has moved to, if it moves meanwhile.
    fn ask<T: Send + 'static, F>(
        &self,
        sequence: &Sequence,
        call: impl Fn(Arc<dyn ShardClient>, SequenceSpec) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, ShardError>> + Send + 'static,
    {
        let began = Instant::now();
        let mut home = sequence.home;
        loop {
            let shard = self.session.store().shard(home).map_err(|error| {
                ValueError::new(ValueErrorKind::ShardUnavailable, error.message.clone())
            })?;
            match ask(home, SEQUENCE_WAIT_MAX, call(shard, sequence.spec.clone())) {
                Err(ShardError::StaleEpoch { .. }) if began.elapsed() < SEQUENCE_WAIT_MAX => {
                    home = self.home_now(sequence)?;
                }
                answer => return answer.map_err(|error| failed(sequence, error)),
            }
        }
    }

    /// The shard of a sequence that its shard has given away, a little later: the move may not be published yet.
    fn home_now(&self, sequence: &Sequence) -> Result<ShardId> {
        let store = self.session.store().clone();
        let refreshed = async move {
            let before = store.version();
            store.changed(before, MOVE_PAUSE).await;
            let unavailable = |error: PgError| ShardError::Unavailable {
                shard: ShardId::META,
                reason: error.message.clone(),
            };
            store.refresh().await.map_err(unavailable)
        };
        let catalog = ask(ShardId::META, SEQUENCE_WAIT_MAX, refreshed).map_err(shard_error)?;
        Ok(catalog.sequences.get(&sequence.oid).map_or(sequence.home, |found| found.home))
    }

    pub(super) fn nextval(&self) -> Result<Datum> {
        let sequence = self.sequence()?;
        let values =
            self.ask(&sequence, |shard, spec| async move { shard.sequence_next(&spec, 1).await })?;
        self.session.remember_value(sequence.oid, values.first);
        Ok(Datum::Int8(values.first))
    }

    pub(super) fn currval(&self) -> Result<Datum> {
        let sequence = self.sequence()?;
        match self.session.last_value(sequence.oid) {
            Some(value) => Ok(Datum::Int8(value)),
            None => Err(ValueError::new(
                ValueErrorKind::NotInPrerequisiteState,
                format!(
                    "currval of sequence \"{}\" is not yet defined in this session",
                    sequence.name
                ),
            )),
        }
    }

    pub(super) fn lastval(&self) -> Result<Datum> {
        let last = self.session.last_sequence().and_then(|oid| self.session.last_value(oid));
        last.map(Datum::Int8).ok_or_else(|| {
            ValueError::new(
                ValueErrorKind::NotInPrerequisiteState,
                "lastval is not yet defined in this session",
            )
        })
    }

    pub(super) fn setval(&self) -> Result<Datum> {
        let sequence = self.sequence()?;
        let value = self.integer(1).unwrap_or_default();
        let is_called = self.args.len() < 3 || self.boolean(2);
        let spec = &sequence.spec;
        if !(spec.min..=spec.max).contains(&value) {
            return Err(ValueError::new(
                ValueErrorKind::OutOfRange,
                format!(
                    "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                    sequence.name, spec.min, spec.max
                ),
            ));
        }
        let state = SequenceState { last_value: value, is_called, ..SequenceState::default() };
        self.ask(
            &sequence,
            move |shard, spec| async move { shard.sequence_set(&spec, state).await },
        )?;
        if is_called {
            self.session.remember_value(sequence.oid, value);
        }
        Ok(Datum::Int8(value))
    }

    /// `pg_sequence_last_value`: NULL before the first use.
    pub(super) fn sequence_last_value(&self) -> Result<Datum> {
        let sequence = self.sequence()?;
        let state =
            self.ask(&sequence, |shard, spec| async move { shard.sequence_get(&spec).await })?;
        let called = state.filter(|state| state.is_called);
        Ok(called.map_or(Datum::Null, |state| Datum::Int8(state.last_value)))
    }
}

/// A shard's error in Postgres's words.
fn failed(sequence: &Sequence, error: ShardError) -> ValueError {
    match error {
        ShardError::SequenceExhausted { bound, value } => ValueError::new(
            ValueErrorKind::SequenceExhausted,
            format!("nextval: reached {bound} value of sequence \"{}\" ({value})", sequence.name),
        ),
        ShardError::StaleEpoch { .. } => ValueError::new(
            ValueErrorKind::ShardUnavailable,
            format!(
                "sequence \"{}\" moves to another shard, which has not ended within {} s",
                sequence.name,
                SEQUENCE_WAIT_MAX.as_secs()
            ),
        )
        .with_hint("cortex.rebalance_status() shows the move."),
        other => shard_error(other),
    }
}
