//! `create_distributed_table`, `create_reference_table` and `undistribute_table`: Citus's names for `ALTER TABLE ... SET
//! (shard_by = ...)`, which they run inside the session's transaction.

use cortex_planner::{
    bind::ddl::{AlterAction, AlterTable, DdlCommand, ObjectKind, QualifiedName},
    catalog::deparse,
};
use cortex_shard_api::Oid;

use super::Arguments;
use crate::{
    error::{PgError, SqlState},
    exec::session::Session,
};

impl Session {
    pub(super) async fn create_distributed_table(
        &mut self,
        arguments: &Arguments,
    ) -> Result<(), PgError> {
        let column = deparse::quote(arguments.text(1)?);
        let kind = match arguments.text(2)? {
            kind @ ("hash" | "range") => kind,
            other => {
                return Err(PgError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("invalid distribution type \"{other}\""),
                )
                .with_hint("Available values: hash, range."));
            }
        };
        let mut options = vec![("shard_by".to_owned(), format!("{kind}({column})"))];
        match arguments.text(3)? {
            "default" => {}
            other => options.push(("colocate_with".to_owned(), other.to_owned())),
        }
        self.change_kind(arguments.oid(0)?, AlterAction::SetOptions(options)).await
    }

    pub(super) async fn create_reference_table(
        &mut self,
        arguments: &Arguments,
    ) -> Result<(), PgError> {
        let options = vec![("shard_by".to_owned(), "reference".to_owned())];
        self.change_kind(arguments.oid(0)?, AlterAction::SetOptions(options)).await
    }

    pub(super) async fn undistribute_table(
        &mut self,
        arguments: &Arguments,
    ) -> Result<(), PgError> {
        let action = if arguments.boolean(1)? {
            AlterAction::BringFamilyHome
        } else {
            AlterAction::SetOptions(vec![("shard_by".to_owned(), "none".to_owned())])
        };
        self.change_kind(arguments.oid(0)?, action).await
    }

    async fn change_kind(&mut self, table: Oid, action: AlterAction) -> Result<(), PgError> {
        let catalog = self.catalog();
        let Some((schema, name)) = deparse::relation_parts(&catalog, table) else {
            return Err(PgError::new(
                SqlState::UNDEFINED_TABLE,
                format!("relation with OID {table} does not exist"),
            ));
        };
        let schema = catalog.schemas.get(&schema).map(|schema| schema.name.clone());
        let command = DdlCommand::AlterTable(AlterTable {
            kind: ObjectKind::Table,
            name: QualifiedName { schema, name, position: None },
            if_exists: false,
            actions: vec![action],
        });
        let outcome = self.change_schema(&command).await?;
        self.notices.extend(outcome.notices);
        Ok(())
    }
}
