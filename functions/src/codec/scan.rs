//! Table scans: one shard's part of a table.
//!
//! Of the table goes what a scan looks at. Constraints and defaults stay behind: they are expressions, which a reader would
//! have to take apart without knowing how deep they are.

use std::sync::Arc;

use arrow::{
    compute::SortOptions,
    datatypes::{DataType, Schema},
};
use cortex_shard_api::{
    Oid, ShardId, StorageId,
    client::{Access, ScanSpec},
    descriptor::{ColumnDescriptor, IndexDescriptor, Placement, TableDescriptor},
    value::arrow::arrow_type,
};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column};
use datafusion_proto::protobuf;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{CodecError, frame::malformed};
use crate::table_scan::{ScanPartition, TableScanExec};

/// Rows per batch that a scan may ask for: the bound of `cortex.batch_rows`.
const BATCH_ROWS_MAX: usize = 65_536;

#[derive(Debug, Serialize, Deserialize)]
struct Scan {
    schema: Vec<u8>,
    shard: ShardId,
    table: Table,
    columns: Vec<usize>,
    with_identity: bool,
    access: Access,
    limit: Option<usize>,
    batch_rows: usize,
    /// Column, descending, NULLs first.
    ordering: Vec<(usize, bool, bool)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    oid: Oid,
    schema: String,
    name: String,
    storage: StorageId,
    version: u32,
    columns: Vec<ColumnDescriptor>,
    primary_key: Vec<usize>,
    primary_key_name: Option<String>,
    placement: Placement,
    placement_epoch: u64,
    indexes: Vec<IndexDescriptor>,
}

pub(super) fn encode(scan: &TableScanExec, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let [partition] = scan.partitions() else {
        return Err(malformed("a scan that was not cut to one shard"));
    };
    let schema: protobuf::Schema = scan
        .schema_ref()
        .as_ref()
        .try_into()
        .map_err(|error| malformed(format!("a schema: {error}")))?;
    let ordering = scan.ordering().map(|ordering| {
        ordering.iter().map(|term| {
            let column = term.expr.downcast_ref::<Column>();
            let column = column.ok_or_else(|| malformed("an order by more than columns"))?;
            Ok((column.index(), term.options.descending, term.options.nulls_first))
        })
    });
    let ordering = ordering.into_iter().flatten().collect::<Result<Vec<_>, CodecError>>()?;
    let ScanSpec { table, columns, with_identity, access, limit, batch_rows } = &partition.spec;
    let scan = Scan {
        schema: schema.encode_to_vec(),
        shard: partition.shard,
        table: Table::of(table),
        columns: columns.clone(),
        with_identity: *with_identity,
        access: access.clone(),
        limit: *limit,
        batch_rows: *batch_rows,
        ordering,
    };
    let bytes = postcard::to_stdvec(&scan).map_err(|error| malformed(error.to_string()))?;
    out.extend_from_slice(&bytes);
    Ok(())
}

pub(super) fn decode(bytes: &[u8]) -> Result<TableScanExec, CodecError> {
    let scan: Scan =
        postcard::from_bytes(bytes).map_err(|error| malformed(format!("a scan: {error}")))?;
    let schema = protobuf::Schema::decode(&scan.schema[..])
        .map_err(|error| malformed(format!("a schema: {error}")))?;
    let schema =
        Schema::try_from(&schema).map_err(|error| malformed(format!("a schema: {error}")))?;
    scan.check(&schema)?;
    let terms = scan.ordering.iter().map(|(column, descending, nulls_first)| {
        let name = schema.field(*column).name();
        let options = SortOptions { descending: *descending, nulls_first: *nulls_first };
        PhysicalSortExpr::new(Arc::new(Column::new(name, *column)), options)
    });
    let ordering = LexOrdering::new(terms.collect::<Vec<_>>());
    let spec = ScanSpec {
        table: Arc::new(scan.table.descriptor()),
        columns: scan.columns,
        with_identity: scan.with_identity,
        access: scan.access,
        limit: scan.limit,
        batch_rows: scan.batch_rows,
    };
    let partition = ScanPartition { shard: scan.shard, spec };
    Ok(TableScanExec::new(Arc::new(schema), vec![partition], ordering, Arc::new(())))
}

impl Scan {
    /// Whether the parts fit together: positions name columns, and the schema is that of the columns.
    fn check(&self, schema: &Schema) -> Result<(), CodecError> {
        let table = &self.table;
        let n_columns = table.columns.len();
        let indexed = table.indexes.iter().flat_map(|index| &index.columns);
        let key = match &table.placement {
            Placement::Hash { key, .. } | Placement::Range { key, .. } => &key[..],
            Placement::Home(_) | Placement::Reference(_) => &[],
        };
        let positions = self.columns.iter().chain(&table.primary_key).chain(key).copied();
        let mut positions = positions.chain(indexed.map(|column| column.column));
        if positions.any(|position| position >= n_columns) {
            return Err(malformed("a scan of a column that its table does not have"));
        }
        let has_index = match &self.access {
            Access::IndexRanges { index, .. } => *index < table.indexes.len(),
            Access::KeySkips { columns, .. } => *columns <= table.primary_key.len(),
            Access::Full | Access::KeyRanges(_) | Access::Empty => true,
        };
        if !has_index || self.batch_rows > BATCH_ROWS_MAX {
            return Err(malformed("a scan by an index that its table does not have"));
        }
        let own = self.columns.iter().map(|position| arrow_type(table.columns[*position].ty.ty));
        let identity = [DataType::Binary, DataType::UInt64];
        let types = own.chain(identity.into_iter().filter(|_| self.with_identity));
        if !types.eq(schema.fields().iter().map(|field| field.data_type().clone())) {
            return Err(malformed("a scan whose schema is not that of its columns"));
        }
        if self.ordering.iter().any(|(column, ..)| *column >= schema.fields().len()) {
            return Err(malformed("a scan ordered by a column that it does not have"));
        }
        Ok(())
    }
}

impl Table {
    fn of(table: &TableDescriptor) -> Table {
        Table {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            storage: table.storage,
            version: table.version,
            columns: table.columns.clone(),
            primary_key: table.primary_key.clone(),
            primary_key_name: table.primary_key_name.clone(),
            placement: table.placement.clone(),
            placement_epoch: table.placement_epoch,
            indexes: table.indexes.clone(),
        }
    }

    fn descriptor(self) -> TableDescriptor {
        TableDescriptor {
            oid: self.oid,
            schema: self.schema,
            name: self.name,
            storage: self.storage,
            version: self.version,
            columns: self.columns,
            primary_key: self.primary_key,
            primary_key_name: self.primary_key_name,
            placement: self.placement,
            placement_epoch: self.placement_epoch,
            indexes: self.indexes,
            checks: Vec::new(),
            foreign_keys: Vec::new(),
            referenced_by: Vec::new(),
        }
    }
}
