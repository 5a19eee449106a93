//! Which state computes an aggregate; and DISTINCT and ORDER BY inside aggregates, which keep the rows until the end.

use cortex_shard_api::{
    Datum, SqlType, ValueError,
    key::{KeyOrder, encode_datum},
};

use super::{
    Spec, lists, moments, ordered_set,
    saved::{State, heap_size, put_bytes, put_datum, put_u64, take_bytes, take_datum, take_u64},
    simple,
};

/// A fresh state; the sort key of each row comes as the last argument, a bytea, where there is an ORDER BY.
pub(super) fn state(spec: &Spec) -> Option<Box<dyn State>> {
    let inner = plain(spec)?;
    if !spec.ordered_set && (spec.distinct || !spec.order.is_empty()) {
        return Some(Box::new(Rows {
            inner: spec.clone(),
            rows: Vec::new(),
            distinct: spec.distinct,
            keyed: !spec.order.is_empty(),
            bytes: 0,
        }));
    }
    Some(inner)
}

fn plain(spec: &Spec) -> Option<Box<dyn State>> {
    simple::state(spec)
        .or_else(|| lists::state(spec))
        .or_else(|| moments::state(spec))
        .or_else(|| ordered_set::state(spec))
}

/// Rows kept for sorting and deduplication: (sort key, arguments).
#[derive(Debug)]
struct Rows {
    inner: Spec,
    rows: Vec<(Vec<u8>, Vec<Datum>)>,
    distinct: bool,
    keyed: bool,
    bytes: usize,
}

impl Rows {
    fn identity(&self, args: &[Datum]) -> Vec<u8> {
        let mut key = Vec::new();
        for (value, ty) in args.iter().zip(&self.inner.args) {
            encode_datum(&mut key, value, *ty, KeyOrder::default());
        }
        key
    }

    fn push(&mut self, key: Vec<u8>, args: Vec<Datum>) {
        self.bytes +=
            key.len() + args.iter().map(|arg| size_of::<Datum>() + heap_size(arg)).sum::<usize>();
        self.rows.push((key, args));
        // Duplicates go before they fill memory.
        if self.distinct && self.rows.len().is_power_of_two() && self.rows.len() >= DEDUPE_ROWS_MIN
        {
            self.dedupe();
        }
    }

    fn dedupe(&mut self) {
        let mut seen = std::collections::HashSet::new();
        let rows = std::mem::take(&mut self.rows);
        self.rows = rows.into_iter().filter(|(_, args)| seen.insert(self.identity(args))).collect();
        self.bytes = self
            .rows
            .iter()
            .map(|(key, args)| {
                key.len()
                    + args.iter().map(|arg| size_of::<Datum>() + heap_size(arg)).sum::<usize>()
            })
            .sum();
    }
}

const DEDUPE_ROWS_MIN: usize = 1024;

impl State for Rows {
    fn update(&mut self, args: &[Datum]) -> Result<(), ValueError> {
        let n = self.inner.args.len();
        let key = match args.get(n) {
            Some(Datum::Bytea(key)) if self.keyed => key.to_vec(),
            _ => Vec::new(),
        };
        self.push(key, args[..n].to_vec());
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_u64(out, self.rows.len() as u64);
        for (key, args) in &self.rows {
            put_bytes(out, key);
            for (value, ty) in args.iter().zip(&self.inner.args) {
                put_datum(out, value, *ty);
            }
        }
    }

    fn merge(&mut self, saved: &mut &[u8]) -> Result<(), ValueError> {
        for _ in 0..take_u64(saved)? {
            let key = take_bytes(saved)?.to_vec();
            let args = self
                .inner
                .args
                .clone()
                .iter()
                .map(|ty| take_datum(saved, *ty))
                .collect::<Result<Vec<_>, _>>()?;
            self.push(key, args);
        }
        Ok(())
    }

    fn finish(&self) -> Result<Datum, ValueError> {
        let mut rows = self
            .rows
            .iter()
            .map(|(key, args)| {
                let identity = if self.distinct { self.identity(args) } else { Vec::new() };
                (key, identity, args)
            })
            .collect::<Vec<_>>();
        // Stable, so that rows with equal keys stay as they came.
        if self.keyed || self.distinct {
            rows.sort_by(|a, b| a.0.cmp(b.0).then_with(|| a.1.cmp(&b.1)));
        }
        if self.distinct {
            rows.dedup_by(|a, b| a.1 == b.1);
        }
        let mut inner = plain(&self.inner).ok_or_else(|| {
            ValueError::new(
                cortex_shard_api::ValueErrorKind::Internal,
                "an aggregate lost its state",
            )
        })?;
        for (_, _, args) in rows {
            inner.update(args)?;
        }
        inner.finish()
    }

    fn size(&self) -> usize {
        self.bytes + self.rows.capacity() * size_of::<(Vec<u8>, Vec<Datum>)>()
    }
}

/// Types that arguments and keys have, in order: what the accumulator reads from its columns.
pub(super) fn value_types(spec: &Spec) -> &[SqlType] {
    &spec.args
}
