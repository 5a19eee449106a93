//! CREATE INDEX.

use std::sync::Arc;

use cortex_shard_api::descriptor::IndexColumn;

use super::{
    Ddl, Work,
    table::{check_key_length, check_ordered},
};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::CreateIndex,
    catalog::{Table, naming::joined_columns},
};

impl Ddl<'_> {
    pub(super) fn create_index(&mut self, command: &CreateIndex) -> Result<(), PlanError> {
        let mut table = Table::clone(&*self.table(&command.table)?);
        let schema = self.schema(&table.descriptor.schema)?;
        if let Some(name) = &command.name {
            if let Some(given) = &name.schema
                && *given != schema.name
            {
                return Err(PlanError::new(
                    PlanErrorKind::Syntax,
                    "an index is in its table's schema; leave the schema out",
                )
                .at(name.position));
            }
            if self.name_taken(&schema, &name.name, command.if_not_exists)? {
                return Ok(());
            }
        }
        let columns = index_columns(command, &table)?;
        let name = match &command.name {
            Some(name) => name.name.clone(),
            None => {
                let joined =
                    joined_columns(command.columns.iter().map(|column| column.name.as_str()));
                self.catalog.choose_relation_name(
                    schema.oid,
                    &table.descriptor.name,
                    Some(&joined),
                    "idx",
                )
            }
        };
        let index = self.new_index(name, command.unique, false, columns)?;
        let before = table.descriptor.clone();
        let descriptor = Arc::make_mut(&mut table.descriptor);
        descriptor.indexes.push(index);
        descriptor.version += 1;
        self.work.push(Work::Lock(before));
        self.settle_keys(&mut table)?;
        self.work.push(Work::BuildIndex {
            table: table.descriptor.clone(),
            index: table.descriptor.indexes.len() - 1,
        });
        self.catalog.put_table(table);
        Ok(())
    }
}

fn index_columns(command: &CreateIndex, table: &Table) -> Result<Vec<IndexColumn>, PlanError> {
    check_key_length(command.columns.len())?;
    let mut columns = Vec::with_capacity(command.columns.len());
    for column in &command.columns {
        let position = table.descriptor.column(&column.name).ok_or_else(|| {
            PlanError::new(
                PlanErrorKind::UndefinedColumn,
                format!("column \"{}\" does not exist", column.name),
            )
        })?;
        check_ordered(table.descriptor.columns[position].ty.ty)?;
        columns.push(IndexColumn {
            column: position,
            descending: column.descending,
            nulls_first: column.nulls_first,
        });
    }
    Ok(columns)
}
