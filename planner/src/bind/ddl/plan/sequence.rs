//! Sequences, serial and identity columns.

use cortex_shard_api::{
    Datum, Oid, ScalarExpr, SqlType, TypeMod,
    client::{SequenceSpec, SequenceState},
};

use super::{Ddl, Work, table::column_position};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::{ObjectKind, QualifiedName, SequenceOptions},
    catalog::{ColumnDefault, Schema, Sequence, Table},
};

impl Ddl<'_> {
    pub(super) fn create_sequence(
        &mut self,
        name: &QualifiedName,
        if_not_exists: bool,
        options: &SequenceOptions,
    ) -> Result<(), PlanError> {
        let schema = self.creation_schema(name)?;
        if self.name_taken(&schema, &name.name, if_not_exists)? {
            return Ok(());
        }
        let owned_by = match &options.owned_by {
            Some(Some((table, column))) => Some(self.owner_column(table, column)?),
            Some(None) | None => None,
        };
        let sequence = self.new_sequence(&schema, &name.name, options, owned_by)?;
        self.catalog.put_sequence(sequence);
        Ok(())
    }

    fn owner_column(&self, table: &QualifiedName, column: &str) -> Result<(Oid, usize), PlanError> {
        let table = self.table(table)?;
        Ok((table.descriptor.oid, column_position(&table, column)?))
    }

    pub(super) fn alter_sequence(
        &mut self,
        name: &QualifiedName,
        if_exists: bool,
        options: &SequenceOptions,
    ) -> Result<(), PlanError> {
        match self.lookup(name)? {
            Some(oid) if self.kind_of(oid) == ObjectKind::Sequence => {
                self.change_sequence(oid, options)
            }
            Some(_) => Err(PlanError::new(
                PlanErrorKind::WrongObjectType,
                format!("\"{}\" is not a sequence", name.name),
            )),
            None if if_exists => {
                self.notice(
                    "00000",
                    format!("relation \"{}\" does not exist, skipping", name.name),
                );
                Ok(())
            }
            None => Err(super::undefined_relation(name)),
        }
    }

    /// Changes what is mentioned. RESTART takes a fresh counter, so that a rollback keeps the old one.
    pub(super) fn change_sequence(
        &mut self,
        oid: Oid,
        options: &SequenceOptions,
    ) -> Result<(), PlanError> {
        let Some(sequence) = self.catalog.sequences.get(&oid) else { return Ok(()) };
        let mut sequence = Sequence::clone(sequence);
        let (old_min, old_max) = default_bounds(sequence.ty, sequence.spec.increment);
        sequence.ty = options.ty.unwrap_or(sequence.ty);
        let spec = &mut sequence.spec;
        spec.increment = options.increment.unwrap_or(spec.increment);
        let (min, max) = default_bounds(sequence.ty, spec.increment);
        // A bound that was the type's own follows the type.
        spec.min = match options.min {
            Some(given) => given.unwrap_or(min),
            None if spec.min == old_min => min,
            None => spec.min,
        };
        spec.max = match options.max {
            Some(given) => given.unwrap_or(max),
            None if spec.max == old_max => max,
            None => spec.max,
        };
        spec.start = options.start.unwrap_or(spec.start);
        spec.cycle = options.cycle.unwrap_or(spec.cycle);
        check_spec(spec, sequence.ty)?;
        sequence.cache = check_cache(options.cache.unwrap_or(sequence.cache))?;
        if let Some(owned_by) = &options.owned_by {
            sequence.owned_by = match owned_by {
                Some((table, column)) => Some(self.owner_column(table, column)?),
                None => None,
            };
        }
        if let Some(restart) = options.restart {
            sequence.spec.storage = self.catalog.ids.storage()?;
            let spec = sequence.spec.clone();
            let value = restart.unwrap_or(spec.start);
            if !(spec.min..=spec.max).contains(&value) {
                return Err(bad(format!(
                    "RESTART value ({value}) cannot be {}",
                    if value < spec.min {
                        format!("less than MINVALUE ({})", spec.min)
                    } else {
                        format!("greater than MAXVALUE ({})", spec.max)
                    }
                )));
            }
            let state = SequenceState { last_value: value, ..SequenceState::default() };
            self.work.push(Work::SetSequence { shard: sequence.home, spec, state });
        }
        self.catalog.put_sequence(sequence);
        Ok(())
    }

    /// Makes the sequence behind a serial or identity column and returns `nextval` of it.
    pub(super) fn sequence_default(
        &mut self,
        table: &Table,
        position: usize,
        options: &SequenceOptions,
    ) -> Result<ColumnDefault, PlanError> {
        let column = &table.descriptor.columns[position];
        let column_type = column.ty;
        let schema = self.schema(&table.descriptor.schema)?;
        let name = match &options.name {
            Some(name) => name.name.clone(),
            None => self.catalog.choose_relation_name(
                schema.oid,
                &table.descriptor.name,
                Some(&column.name),
                "seq",
            ),
        };
        let mut options = options.clone();
        options.ty = options.ty.or(Some(column_type.ty));
        let owned_by = Some((table.descriptor.oid, position));
        let sequence = self.new_sequence(&schema, &name, &options, owned_by)?;
        let oid = sequence.oid;
        self.catalog.put_sequence(sequence);
        Ok(ColumnDefault {
            oid: self.catalog.ids.oid()?,
            expr: nextval(oid, column_type),
            sql: format!("nextval('{name}'::regclass)"),
        })
    }

    /// A sequence as its options say, with Postgres's checks.
    pub(super) fn new_sequence(
        &self,
        schema: &Schema,
        name: &str,
        options: &SequenceOptions,
        owned_by: Option<(Oid, usize)>,
    ) -> Result<Sequence, PlanError> {
        let ty = options.ty.unwrap_or(SqlType::Int8);
        let increment = options.increment.unwrap_or(1);
        let (min, max) = default_bounds(ty, increment);
        let spec = SequenceSpec {
            storage: self.catalog.ids.storage()?,
            start: 0,
            increment,
            min: options.min.flatten().unwrap_or(min),
            max: options.max.flatten().unwrap_or(max),
            cycle: options.cycle.unwrap_or(false),
        };
        let start = options.start.unwrap_or(if increment > 0 { spec.min } else { spec.max });
        let spec = SequenceSpec { start, ..spec };
        check_spec(&spec, ty)?;
        Ok(Sequence {
            oid: self.catalog.ids.oid()?,
            schema: schema.oid,
            owner: self.env.current_role,
            name: name.to_owned(),
            ty,
            spec,
            cache: check_cache(options.cache.unwrap_or(1))?,
            home: schema.home,
            owned_by,
        })
    }
}

/// `nextval(sequence)` cast to a column's type.
pub(super) fn nextval(sequence: Oid, column: TypeMod) -> ScalarExpr {
    let call = ScalarExpr::Call {
        function: "nextval(regclass)".to_owned(),
        args: vec![ScalarExpr::literal(Datum::Oid(sequence.0), SqlType::Regclass)],
        ty: TypeMod::plain(SqlType::Int8),
    };
    if column.ty == SqlType::Int8 {
        return call;
    }
    ScalarExpr::Cast { arg: Box::new(call), to: column, explicit: false }
}

/// The sequence that an expression takes values from, where it is `nextval` of a constant.
pub fn nextval_sequence(expr: &ScalarExpr) -> Option<Oid> {
    match expr {
        ScalarExpr::Cast { arg, .. } => nextval_sequence(arg),
        ScalarExpr::Call { function, args, .. } if function == "nextval(regclass)" => {
            match args.first()? {
                ScalarExpr::Literal { value: Datum::Oid(oid), .. } => Some(Oid(*oid)),
                ScalarExpr::Cast { arg, .. } => match &**arg {
                    ScalarExpr::Literal { value: Datum::Oid(oid), .. } => Some(Oid(*oid)),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

pub(super) fn default_bounds(ty: SqlType, increment: i64) -> (i64, i64) {
    let (low, high) = type_bounds(ty);
    if increment > 0 { (1, high) } else { (low, -1) }
}

fn type_bounds(ty: SqlType) -> (i64, i64) {
    match ty {
        SqlType::Int2 => (i16::MIN.into(), i16::MAX.into()),
        SqlType::Int4 => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    }
}

pub(super) fn check_cache(cache: i64) -> Result<i64, PlanError> {
    if cache < 1 {
        return Err(bad(format!("CACHE ({cache}) must be greater than zero")));
    }
    Ok(cache)
}

/// Postgres's checks of a sequence's numbers.
pub(super) fn check_spec(spec: &SequenceSpec, ty: SqlType) -> Result<(), PlanError> {
    if spec.increment == 0 {
        return Err(bad("INCREMENT must not be zero".to_owned()));
    }
    let (low, high) = type_bounds(ty);
    let name = ty.sql_name();
    if !(low..=high).contains(&spec.max) {
        return Err(bad(format!(
            "MAXVALUE ({}) is out of range for sequence data type {name}",
            spec.max
        )));
    }
    if !(low..=high).contains(&spec.min) {
        return Err(bad(format!(
            "MINVALUE ({}) is out of range for sequence data type {name}",
            spec.min
        )));
    }
    if spec.min >= spec.max {
        return Err(bad(format!(
            "MINVALUE ({}) must be less than MAXVALUE ({})",
            spec.min, spec.max
        )));
    }
    if spec.start < spec.min {
        return Err(bad(format!(
            "START value ({}) cannot be less than MINVALUE ({})",
            spec.start, spec.min
        )));
    }
    if spec.start > spec.max {
        return Err(bad(format!(
            "START value ({}) cannot be greater than MAXVALUE ({})",
            spec.start, spec.max
        )));
    }
    Ok(())
}

fn bad(message: String) -> PlanError {
    PlanError::new(PlanErrorKind::InvalidParameterValue, message)
}
