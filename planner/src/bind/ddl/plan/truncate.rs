//! TRUNCATE: the table goes to fresh storage, the old one is deleted after the commit.

use std::collections::BTreeSet;

use cortex_shard_api::Oid;

use super::{Ddl, Work};
use crate::{
    PlanError, PlanErrorKind,
    bind::ddl::QualifiedName,
    catalog::{Sequence, Table},
};

impl Ddl<'_> {
    pub(super) fn truncate(
        &mut self,
        names: &[QualifiedName],
        restart_identity: bool,
        cascade: bool,
    ) -> Result<(), PlanError> {
        let mut tables = Vec::new();
        for name in names {
            tables.push(self.table(name)?.descriptor.oid);
        }
        let mut going: BTreeSet<Oid> = tables.iter().copied().collect();
        while let Some(oid) = tables.pop() {
            let table = self.table_by_oid(oid)?;
            for child in &table.descriptor.referenced_by {
                if going.contains(child) {
                    continue;
                }
                let child_table = self.table_by_oid(*child)?;
                let child_name = &child_table.descriptor.name;
                if !cascade {
                    return Err(PlanError::new(
                        PlanErrorKind::Unsupported,
                        "cannot truncate a table referenced in a foreign key constraint",
                    )
                    .with_detail(format!(
                        "Table \"{child_name}\" references \"{}\".",
                        table.descriptor.name
                    ))
                    .with_hint(format!(
                        "Truncate table \"{child_name}\" at the same time, or use TRUNCATE ... CASCADE."
                    )));
                }
                self.notice("00000", format!("truncate cascades to table \"{child_name}\""));
                going.insert(*child);
                tables.push(*child);
            }
        }
        for oid in going {
            let mut table = Table::clone(&*self.table_by_oid(oid)?);
            self.work.push(Work::Lock(table.descriptor.clone()));
            self.move_storage(&mut table)?;
            self.catalog.put_table(table);
            if restart_identity {
                self.restart_sequences_of(oid)?;
            }
        }
        Ok(())
    }

    fn restart_sequences_of(&mut self, table: Oid) -> Result<(), PlanError> {
        for oid in self.owned_sequences(table) {
            if let Some(sequence) = self.catalog.sequences.get(&oid) {
                let mut sequence = Sequence::clone(sequence);
                sequence.spec.storage = self.catalog.ids.storage()?;
                self.catalog.put_sequence(sequence);
            }
        }
        Ok(())
    }
}
