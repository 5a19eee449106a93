//! `has_*_privilege`, `pg_has_role`: every role has every right on what exists.

use cortex_shard_api::{Datum, Oid, ValueError, ValueErrorKind};

use super::{
    Call, Result,
    names::{relation_by_name, split_name},
};

impl Call<'_> {
    pub(super) fn privilege(&self, name: &str) -> Result<Datum> {
        let kind = name.trim_start_matches("has_").trim_end_matches("_privilege");
        // (role)?, object, (column)?, privilege
        let columns = usize::from(kind == "column");
        let with_role = self.args.len() > 2 + columns;
        if with_role && let Some(role) = self.text(0) {
            self.role_exists(role)?;
        }
        let object = usize::from(with_role);
        let is_relation = matches!(kind, "table" | "any_column" | "column" | "sequence");
        match self.text(object) {
            Some(name) if is_relation => self.relation_exists_by_name(name)?,
            Some(name) if kind == "schema" => self.schema_exists(name)?,
            Some(role) if kind == "pg_has_role" => self.role_exists(role)?,
            None if is_relation && !self.relation_exists(self.oid(object).unwrap_or_default()) => {
                return Ok(Datum::Null);
            }
            _ => {}
        }
        Ok(Datum::Bool(true))
    }

    fn relation_exists_by_name(&self, name: &str) -> Result<()> {
        if relation_by_name(self.session, &split_name(name)?)?.is_some() {
            return Ok(());
        }
        Err(ValueError::new(
            ValueErrorKind::UndefinedTable,
            format!("relation \"{name}\" does not exist"),
        ))
    }

    fn schema_exists(&self, name: &str) -> Result<()> {
        if self.session.catalog().schema_by_name(name).is_some() {
            return Ok(());
        }
        Err(ValueError::new(
            ValueErrorKind::UndefinedSchema,
            format!("schema \"{name}\" does not exist"),
        ))
    }

    fn role_exists(&self, role: &str) -> Result<()> {
        if role == "public" || self.session.catalog().role_by_name(role).is_some() {
            return Ok(());
        }
        Err(ValueError::new(
            ValueErrorKind::UndefinedObject,
            format!("role \"{role}\" does not exist"),
        ))
    }

    fn relation_exists(&self, oid: Oid) -> bool {
        let catalog = self.session.catalog();
        crate::catalog::relations::facts::relation_by_oid(oid).is_some()
            || catalog.relation_by_oid(oid).is_some()
            || catalog.index_tables.contains_key(&oid)
    }
}
