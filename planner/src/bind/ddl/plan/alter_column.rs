//! ALTER COLUMN: default, NOT NULL, type, identity.

use std::sync::Arc;

use cortex_shard_api::{Oid, ScalarExpr, SqlType, TypeMod};
use sqlparser::ast::{Expr, Ident};

use super::{
    Ddl, Violation, Work,
    constraint::check_key_defaults,
    placement::{same_columns, shard_key},
    sequence::{nextval, nextval_sequence},
    table::{column_position, qualified, quote},
};
use crate::{
    CortexDialect, PlanError, PlanErrorKind,
    bind::ddl::{SequenceOptions, SourceExpr},
    catalog::{Identity, Table},
};

impl Ddl<'_> {
    pub(super) fn set_default(
        &mut self,
        oid: Oid,
        column: &str,
        default: Option<&SourceExpr>,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        if table.columns[position].identity.is_some() {
            let hint = "Use ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY instead.";
            let error = identity_error(&table, column);
            return Err(if default.is_none() { error.with_hint(hint) } else { error });
        }
        let ty = table.descriptor.columns[position].ty;
        table.columns[position].default = match default {
            Some(default) => self.bind_default(column, ty, default)?,
            None => None,
        };
        check_key_defaults(&table)?;
        self.catalog.put_table(table);
        Ok(())
    }

    pub(super) fn set_not_null(
        &mut self,
        oid: Oid,
        column: &str,
        not_null: bool,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        if table.descriptor.columns[position].not_null == not_null {
            return Ok(());
        }
        if !not_null {
            if table.columns[position].identity.is_some() {
                return Err(identity_error(&table, column));
            }
            if table.descriptor.primary_key.contains(&position) {
                return Err(PlanError::new(
                    PlanErrorKind::InvalidTableDefinition,
                    format!("column \"{column}\" is in a primary key"),
                ));
            }
        }
        if not_null {
            self.verify_not_null(&table, position);
        }
        Arc::make_mut(&mut table.descriptor).columns[position].not_null = not_null;
        self.catalog.put_table(table);
        Ok(())
    }

    pub(super) fn set_type(
        &mut self,
        oid: Oid,
        column: &str,
        ty: TypeMod,
        using: Option<&SourceExpr>,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        let old = table.descriptor.columns[position].ty;
        if old == ty && using.is_none() {
            return Ok(());
        }
        self.refuse_under_views(
            &table,
            position,
            "cannot alter type of a column used by a view or rule",
        )?;
        self.refuse_type_of_key(&table, position, old, ty)?;
        let from = table.descriptor.clone();
        let conversion = self.type_conversion(&table, position, ty, using)?;
        Arc::make_mut(&mut table.descriptor).columns[position].ty = ty;
        self.convert_default(&mut table, position, ty)?;
        self.rebind_checks(&mut table)?;
        if using.is_none() && is_same_stored(old, ty) {
            self.verify_length(&table, position, old, ty);
            self.catalog.put_table(table);
            return Ok(());
        }
        self.move_storage(&mut table)?;
        let mut columns = same_columns(&from).to_vec();
        columns[position] = conversion;
        self.work.push(Work::Convert {
            from,
            to: table.descriptor.clone(),
            columns: columns.into(),
        });
        self.catalog.put_table(table);
        Ok(())
    }

    /// The new value of the column over the old row.
    fn type_conversion(
        &self,
        table: &Table,
        position: usize,
        ty: TypeMod,
        using: Option<&SourceExpr>,
    ) -> Result<ScalarExpr, PlanError> {
        let column = &table.descriptor.columns[position].name;
        let plain = Expr::Identifier(Ident::with_quote('"', column));
        let expr = using.map_or(&plain, |using| &using.expr);
        let bound = self.env.binder.conversion(&self.namespace(), table, column, ty, expr);
        bound.map_err(|error| {
            if error.kind != PlanErrorKind::DatatypeMismatch {
                return error;
            }
            let name = cortex_shard_api::value::text::type_name(ty);
            if using.is_some() {
                return PlanError::new(
                    PlanErrorKind::DatatypeMismatch,
                    format!(
                        "result of USING clause for column \"{column}\" cannot be cast automatically to type {name}"
                    ),
                )
                .with_hint("You might need to add an explicit cast.");
            }
            PlanError::new(
                PlanErrorKind::DatatypeMismatch,
                format!("column \"{column}\" cannot be cast automatically to type {name}"),
            )
            .with_hint(format!("You might need to specify \"USING {column}::{name}\"."))
        })
    }

    /// Shard keys and foreign keys compare stored values with those of other tables.
    fn refuse_type_of_key(
        &self,
        table: &Table,
        position: usize,
        old: TypeMod,
        new: TypeMod,
    ) -> Result<(), PlanError> {
        if is_same_stored(old, new) {
            return Ok(());
        }
        if shard_key(&table.descriptor).contains(&position) {
            return Err(PlanError::unsupported(
                "cannot alter the type of a shard key",
                "Bring the table home first: ALTER TABLE ... SET (shard_by = 'none').",
            ));
        }
        let children = self.catalog.tables.values();
        let referenced = children.flat_map(|child| &child.descriptor.foreign_keys).any(|key| {
            key.parent == table.descriptor.oid && key.parent_columns.contains(&position)
        });
        let refers =
            table.descriptor.foreign_keys.iter().any(|key| key.columns.contains(&position));
        if referenced || refers {
            return Err(PlanError::unsupported(
                "cannot alter the type of a column in a foreign key",
                "Drop the foreign key, alter both columns, and add it again.",
            ));
        }
        Ok(())
    }

    fn convert_default(
        &self,
        table: &mut Table,
        position: usize,
        ty: TypeMod,
    ) -> Result<(), PlanError> {
        let Some(default) = &mut table.columns[position].default else { return Ok(()) };
        default.expr = match nextval_sequence(&default.expr) {
            Some(sequence) => nextval(sequence, ty),
            None => {
                let from = default.expr.ty();
                if !cortex_functions::registry::can_cast(
                    from.ty,
                    ty.ty,
                    cortex_functions::registry::CastContext::Assignment,
                ) {
                    return Err(PlanError::new(
                        PlanErrorKind::DatatypeMismatch,
                        format!(
                            "default for column \"{}\" cannot be cast automatically to type {}",
                            table.descriptor.columns[position].name,
                            cortex_shard_api::value::text::type_name(ty)
                        ),
                    ));
                }
                ScalarExpr::Cast { arg: Box::new(default.expr.clone()), to: ty, explicit: false }
            }
        };
        Ok(())
    }

    /// Overloads may differ for the new type, so every check is bound again from its text.
    fn rebind_checks(&self, table: &mut Table) -> Result<(), PlanError> {
        let names = crate::catalog::deparse::column_names(table);
        let namespace = self.namespace();
        let mut checks = table.descriptor.checks.clone();
        for check in &mut checks {
            let text = crate::catalog::deparse::Deparser {
                catalog: &self.catalog,
                columns: &names,
                pretty: false,
            }
            .top(&check.expr);
            let dialect = CortexDialect;
            let expr = sqlparser::parser::Parser::new(&dialect)
                .try_with_sql(&text)
                .and_then(|mut parser| parser.parse_expr())
                .map_err(|error| {
                    PlanError::new(
                        PlanErrorKind::Internal,
                        format!("constraint \"{}\" cannot be read: {error}", check.name),
                    )
                })?;
            check.expr = self.env.binder.check(&namespace, table, &expr)?;
        }
        Arc::make_mut(&mut table.descriptor).checks = checks;
        Ok(())
    }

    /// A shorter varchar(n) must hold what is there.
    fn verify_length(&mut self, table: &Table, position: usize, old: TypeMod, new: TypeMod) {
        let Some(limit) = new.char_limit() else { return };
        if old.char_limit().is_some_and(|old| old <= limit) {
            return;
        }
        let sql = format!(
            "SELECT 1 FROM {} WHERE char_length({}) > {limit} LIMIT 1",
            qualified(&table.descriptor),
            quote(&table.descriptor.columns[position].name)
        );
        let ty = cortex_shard_api::value::text::type_name(new);
        self.verify(sql, Violation::TooLong { ty });
    }

    pub(super) fn add_identity(
        &mut self,
        oid: Oid,
        column: &str,
        identity: Identity,
        options: &SequenceOptions,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        let name = &table.descriptor.name;
        let invalid =
            |message: String| PlanError::new(PlanErrorKind::InvalidObjectDefinition, message);
        if !table.descriptor.columns[position].not_null {
            return Err(invalid(format!(
                "column \"{column}\" of relation \"{name}\" must be declared NOT NULL before identity can be added"
            )));
        }
        if table.columns[position].identity.is_some() {
            return Err(invalid(format!(
                "column \"{column}\" of relation \"{name}\" is already an identity column"
            )));
        }
        if table.columns[position].default.is_some() {
            return Err(invalid(format!(
                "column \"{column}\" of relation \"{name}\" already has a default value"
            )));
        }
        table.columns[position] = self.identity_extra(&table, position, identity, options)?;
        check_key_defaults(&table)?;
        self.catalog.put_table(table);
        Ok(())
    }

    pub(super) fn set_identity(
        &mut self,
        oid: Oid,
        column: &str,
        identity: Option<Identity>,
        options: &SequenceOptions,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        if table.columns[position].identity.is_none() {
            return Err(not_identity(&table, column));
        }
        if identity.is_some() {
            table.columns[position].identity = identity;
            self.catalog.put_table(table);
        }
        let owned = self
            .catalog
            .sequences
            .values()
            .find(|sequence| sequence.owned_by == Some((oid, position)))
            .map(|sequence| sequence.oid);
        match owned {
            Some(sequence) => self.change_sequence(sequence, options),
            None => Ok(()),
        }
    }

    pub(super) fn drop_identity(
        &mut self,
        oid: Oid,
        column: &str,
        if_exists: bool,
    ) -> Result<(), PlanError> {
        let mut table = self.next_version(oid)?;
        let position = column_position(&table, column)?;
        if table.columns[position].identity.is_none() {
            let error = not_identity(&table, column);
            if if_exists {
                self.notice("00000", format!("{}, skipping", error.message));
                return Ok(());
            }
            return Err(error);
        }
        table.columns[position] = Default::default();
        self.catalog.put_table(table);
        let owned: Vec<Oid> = self
            .catalog
            .sequences
            .values()
            .filter(|sequence| sequence.owned_by == Some((oid, position)))
            .map(|sequence| sequence.oid)
            .collect();
        self.drop_relations(&owned, false)
    }
}

/// Whether values of both types are stored, ordered and compared alike.
fn is_same_stored(old: TypeMod, new: TypeMod) -> bool {
    let strings = |ty| matches!(ty, SqlType::Text | SqlType::Varchar);
    if strings(old.ty) && strings(new.ty) {
        return true;
    }
    match (old.ty, new.ty) {
        // A wider numeric(p, s) of the same scale, or no limit at all.
        (SqlType::Numeric, SqlType::Numeric) => {
            match (old.numeric_limits(), new.numeric_limits()) {
                (_, None) => true,
                (Some((precision, scale)), Some((new_precision, new_scale))) => {
                    scale == new_scale && precision <= new_precision
                }
                (None, Some(_)) => false,
            }
        }
        (a, b) => a == b && new.typmod == -1 && a != SqlType::Bpchar,
    }
}

fn identity_error(table: &Table, column: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::Syntax,
        format!(
            "column \"{column}\" of relation \"{}\" is an identity column",
            table.descriptor.name
        ),
    )
}

fn not_identity(table: &Table, column: &str) -> PlanError {
    PlanError::new(
        PlanErrorKind::InvalidObjectDefinition,
        format!(
            "column \"{column}\" of relation \"{}\" is not an identity column",
            table.descriptor.name
        ),
    )
}
