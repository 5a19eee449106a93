//! `cortex.split_range` and `cortex.merge_ranges`: changes of a map that move no row, inside the session's transaction.

use cortex_planner::catalog::{Catalog, placement};
use cortex_shard_api::{Oid, key::KeyOrder, value::text};

use super::Arguments;
use crate::{catalog::CatalogTransaction, error::PgError, exec::session::Session};

impl Session {
    pub(super) async fn split_range(&mut self, arguments: &Arguments) -> Result<(), PgError> {
        let (table, at) = (arguments.oid(0)?, arguments.text(1)?);
        let at = self.range_bound(table, at)?;
        self.edit_catalog(|catalog| placement::split_range(catalog, table, at)).await
    }

    pub(super) async fn merge_ranges(&mut self, arguments: &Arguments) -> Result<(), PgError> {
        let (table, at) = (arguments.oid(0)?, arguments.text(1)?);
        let at = self.range_bound(table, at)?;
        self.edit_catalog(|catalog| placement::merge_ranges(catalog, table, &at)).await
    }

    /// A value of a range table's shard key as its map has it.
    pub(super) fn range_bound(&self, table: Oid, at: &str) -> Result<Vec<u8>, PgError> {
        let catalog = self.catalog();
        let column = placement::range_column(&catalog, table)?;
        let value = text::parse(column.ty, at, &self.eval_context().settings)?;
        let mut bytes = Vec::new();
        cortex_shard_api::key::encode_datum(&mut bytes, &value, column.ty, KeyOrder::default());
        Ok(bytes)
    }

    /// Changes the transaction's version of the catalog.
    async fn edit_catalog(
        &mut self,
        edit: impl FnOnce(&mut Catalog) -> Result<(), cortex_planner::PlanError>,
    ) -> Result<(), PgError> {
        self.ensure_transaction();
        let mut ddl = match self.ddl.take() {
            Some(ddl) => ddl,
            None => {
                let store = self.gateway.store.clone();
                CatalogTransaction::begin(store, self.settings.lock_timeout()).await?
            }
        };
        let edited = ddl.edit(edit);
        self.ddl = Some(ddl);
        edited
    }
}
