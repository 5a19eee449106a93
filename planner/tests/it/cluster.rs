//! Shards in memory that answer fragments, and tables spread over them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cortex_functions::{
    codec, failure::shard_error, fragment::PlanFragment, table_scan::FragmentSource,
};
use cortex_planner::{
    catalog,
    operators::{StatementContext, runtime, session_config, session_state},
};
use cortex_shard_api::{
    Datum, LogIndex, MoveId, Oid, ShardError, ShardId, SnapshotId, SqlType, StorageId,
    TableDescriptor, TxnId, TypeMod,
    client::{
        Access, BatchStream, Fragment, FragmentPlan, FragmentRequest, GetRequest, LockRowsRequest,
        LockedRow, MetaWrite, RequestContext, Row, ScanRowsRequest, ScanSource, ScanSpec,
        SequenceSpec, SequenceState, SequenceValues, ShardClient, ShardStatus, StorageStats,
        StoredRow, TableLock, WriteOutcome, WriteRequest,
    },
    copies::{Changes, ChangesRequest},
    descriptor::{
        ColumnDescriptor, Fence, IndexColumn, IndexDescriptor, IndexState, Placement, RangeMap,
        SLOTS, SlotMap,
    },
    key,
    moves::{
        ApplyMoving, HoldRanges, MovePosition, MovingRequest, MovingRows, RangeChecksum,
        TableRanges,
    },
    row,
    value::arrow::RowBatchBuilder,
};
use datafusion::{
    arrow::datatypes::{DataType, FieldRef},
    execution::{SessionStateBuilder, TaskContext, config::SessionConfig},
    physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable},
    prelude::SessionContext,
};
use futures::StreamExt;

/// The keys of one shard: rows and index entries together, as they would be on disk.
#[derive(Clone, Debug, Default)]
struct Keys(Arc<BTreeMap<Bytes, Bytes>>);

/// Tables with their rows.
pub type Tables = Vec<(Arc<catalog::Table>, Vec<Row>)>;

/// A shard of maps.
pub struct FakeShard {
    id: ShardId,
    keys: Keys,
    open_snapshots: AtomicI64,
}

/// Some shards and the tables on them.
#[derive(Debug, Default)]
pub struct Cluster {
    shards: BTreeMap<ShardId, Arc<FakeShard>>,
}

impl Cluster {
    /// Spreads the tables' rows over their shards.
    pub fn new(tables: &Tables) -> Cluster {
        let mut keys: BTreeMap<ShardId, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
        for (table, rows) in tables {
            let table = &table.descriptor;
            for (number, values) in rows.iter().enumerate() {
                let row_key = key::row_key(table, values, Some(number as u64)).expect("a key");
                let homes = match &table.placement {
                    Placement::Reference(shards) => shards.clone(),
                    _ => vec![key::shard_of_row(table, values)],
                };
                for home in homes {
                    let shard = keys.entry(home).or_default();
                    shard.insert(row_key.clone(), row::encode(table, values).into());
                    for index in &table.indexes {
                        let (entry, value) = key::index_entry(table, index, values, &row_key);
                        shard.insert(entry, value);
                    }
                }
            }
        }
        for (table, _) in tables {
            for shard in table.descriptor.shards() {
                keys.entry(shard).or_default();
            }
        }
        let shards = keys.into_iter().map(|(id, keys)| {
            let keys = Keys(Arc::new(keys));
            (id, Arc::new(FakeShard { id, keys, open_snapshots: AtomicI64::new(0) }))
        });
        Cluster { shards: shards.collect() }
    }

    /// A session that runs one statement on the cluster.
    pub fn session(&self) -> SessionContext {
        let shards = self.shards.clone();
        let find = move |id| shards.get(&id).map(|shard| shard.clone() as Arc<dyn ShardClient>);
        let statement = StatementContext::new(Arc::new(find), RequestContext::default());
        let config = session_config(100, 1 << 30).with_extension(Arc::new(statement));
        let runtime = runtime(64 << 20).expect("a runtime");
        let state = SessionStateBuilder::new_from_existing(session_state(config));
        SessionContext::new_with_state(state.with_runtime_env(runtime).build())
    }

    /// Snapshots that nobody closed yet.
    pub fn open_snapshots(&self) -> i64 {
        self.shards.values().map(|shard| shard.open_snapshots.load(Ordering::SeqCst)).sum()
    }
}

impl ScanSource for Keys {
    fn scan(&self, spec: &ScanSpec) -> Result<BatchStream, ShardError> {
        let table = &spec.table;
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        let range = |start: &Bytes, end: &Bytes| self.0.range(start.clone()..end.clone());
        match &spec.access {
            Access::Empty => {}
            // More than it asks for, as is allowed.
            Access::Full | Access::KeySkips { .. } => {
                let start = Bytes::copy_from_slice(&key::storage_prefix(table.storage));
                let end = key::prefix_end(&start).expect("an end");
                rows.extend(range(&start, &end).map(|(key, value)| (key.clone(), value.clone())));
            }
            Access::KeyRanges(ranges) => {
                for (start, end) in ranges {
                    rows.extend(range(start, end).map(|(key, value)| (key.clone(), value.clone())));
                }
            }
            Access::IndexRanges { index, ranges } => {
                for (start, end) in ranges {
                    for (entry, value) in range(start, end) {
                        let index = &table.indexes[*index];
                        let key = key::row_key_of_entry(table, index, entry, value)?;
                        let value = self.0[&key].clone();
                        rows.push((key, value));
                    }
                }
            }
        }
        rows.truncate(spec.limit.unwrap_or(usize::MAX));
        let mut builder =
            RowBatchBuilder::new(table, &spec.columns, spec.with_identity, spec.batch_rows);
        let mut batches = Vec::new();
        for chunk in rows.chunks(spec.batch_rows) {
            for (key, value) in chunk {
                builder.push(key, LogIndex(1), value)?;
            }
            batches.push(Ok(builder.finish()?));
        }
        Ok(Box::pin(futures::stream::iter(batches)))
    }
}

impl fmt::Debug for FakeShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeShard({})", self.id)
    }
}

impl FakeShard {
    fn refuse<T>(&self) -> Result<T, ShardError> {
        Err(ShardError::Unavailable { shard: self.id, reason: "it only reads".to_owned() })
    }
}

#[async_trait]
impl ShardClient for FakeShard {
    fn id(&self) -> ShardId {
        self.id
    }

    async fn status(&self) -> Result<ShardStatus, ShardError> {
        self.refuse()
    }

    async fn fence(
        &self,
        _context: &RequestContext,
        _fences: Vec<Fence>,
    ) -> Result<LogIndex, ShardError> {
        self.refuse()
    }

    async fn read_moving(&self, _request: MovingRequest) -> Result<MovingRows, ShardError> {
        self.refuse()
    }

    async fn apply_moving(&self, _request: ApplyMoving) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn move_position(&self, _id: MoveId) -> Result<Option<MovePosition>, ShardError> {
        self.refuse()
    }

    async fn hold_ranges(&self, _request: HoldRanges) -> Result<LogIndex, ShardError> {
        self.refuse()
    }

    async fn release_ranges(&self, _id: MoveId) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn drop_ranges(&self, _id: MoveId, _tables: Vec<TableRanges>) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn is_range_clean(&self, _id: MoveId) -> Result<bool, ShardError> {
        self.refuse()
    }

    async fn checksum_ranges(
        &self,
        _context: &RequestContext,
        _tables: Vec<TableRanges>,
    ) -> Result<Vec<RangeChecksum>, ShardError> {
        self.refuse()
    }

    async fn meta_watch(&self, _after: LogIndex, _wait: Duration) -> Result<LogIndex, ShardError> {
        self.refuse()
    }

    async fn open_snapshot(
        &self,
        _context: &RequestContext,
        _tables: &[Arc<TableDescriptor>],
    ) -> Result<SnapshotId, ShardError> {
        self.open_snapshots.fetch_add(1, Ordering::SeqCst);
        Ok(SnapshotId(7))
    }

    fn close_snapshot(&self, snapshot: SnapshotId) {
        assert_eq!(snapshot, SnapshotId(7));
        self.open_snapshots.fetch_sub(1, Ordering::SeqCst);
    }

    async fn execute(&self, request: FragmentRequest) -> Result<BatchStream, ShardError> {
        assert_eq!(request.context.snapshot, Some(SnapshotId(7)));
        let Fragment::Plan(plan) = &request.fragment else {
            return self.refuse();
        };
        let original = plan.as_any().downcast_ref::<PlanFragment>().expect("a plan").plan().clone();
        let plan = travelled(plan.as_ref(), &original)?;
        let source = FragmentSource(Arc::new(self.keys.clone()));
        let config = SessionConfig::new().with_extension(Arc::new(source));
        let context = TaskContext::default().with_session_config(config);
        let stream = plan.execute(0, Arc::new(context));
        let stream = stream.map_err(|error| shard_error(&error))?;
        Ok(Box::pin(stream.map(|batch| batch.map_err(|error| shard_error(&error)))))
    }

    async fn get(&self, _request: GetRequest) -> Result<Vec<Option<StoredRow>>, ShardError> {
        self.refuse()
    }

    async fn scan_rows(&self, _request: ScanRowsRequest) -> Result<Vec<StoredRow>, ShardError> {
        self.refuse()
    }

    async fn lock_rows(&self, _request: LockRowsRequest) -> Result<Vec<LockedRow>, ShardError> {
        self.refuse()
    }

    async fn lock_table(
        &self,
        _context: &RequestContext,
        _table: Oid,
        _lock: TableLock,
    ) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn write(&self, _request: WriteRequest) -> Result<WriteOutcome, ShardError> {
        self.refuse()
    }

    async fn rollback_to(&self, _txn: TxnId, _mark: u32) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn validate(&self, _txn: TxnId) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn commit(&self, _txn: TxnId) -> Result<LogIndex, ShardError> {
        self.refuse()
    }

    async fn rollback(&self, _txn: TxnId) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn build_index(
        &self,
        _context: &RequestContext,
        _table: Arc<TableDescriptor>,
        _index: usize,
    ) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn rewrite_table(
        &self,
        _context: &RequestContext,
        _from: Arc<TableDescriptor>,
        _to: Arc<TableDescriptor>,
    ) -> Result<u64, ShardError> {
        self.refuse()
    }

    async fn drop_storage(&self, _storages: Vec<StorageId>) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn storage_stats(&self, storage: StorageId) -> Result<StorageStats, ShardError> {
        let prefix = key::storage_prefix(storage);
        let rows = self.keys.0.keys().filter(|key| key.starts_with(&prefix)).count() as u64;
        Ok(StorageStats { rows, bytes: 0 })
    }

    async fn storages(&self) -> Result<Vec<StorageId>, ShardError> {
        self.refuse()
    }

    async fn read_changes(&self, _request: ChangesRequest) -> Result<Changes, ShardError> {
        self.refuse()
    }

    async fn copy_position(
        &self,
        _source: ShardId,
        _at_least: LogIndex,
        _wait: std::time::Duration,
    ) -> Result<LogIndex, ShardError> {
        self.refuse()
    }

    async fn sequence_next(
        &self,
        _spec: &SequenceSpec,
        _count: u32,
    ) -> Result<SequenceValues, ShardError> {
        self.refuse()
    }

    async fn sequence_set(
        &self,
        _spec: &SequenceSpec,
        _state: SequenceState,
    ) -> Result<(), ShardError> {
        self.refuse()
    }

    async fn sequence_get(
        &self,
        _spec: &SequenceSpec,
    ) -> Result<Option<SequenceState>, ShardError> {
        self.refuse()
    }

    async fn meta_scan(&self, _prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ShardError> {
        self.refuse()
    }

    async fn meta_write(
        &self,
        _guard: (Vec<u8>, Option<Vec<u8>>),
        _writes: Vec<MetaWrite>,
    ) -> Result<LogIndex, ShardError> {
        self.refuse()
    }
}

/// Makes tables for tests.
pub struct TableBuilder {
    descriptor: TableDescriptor,
}

impl TableBuilder {
    /// A table on shard 1 with the columns `name type [not null]`, and a primary key of their positions.
    pub fn new(oid: u32, name: &str, columns: &[(&str, SqlType, bool)], key: &[usize]) -> Self {
        let columns = columns.iter().map(|(name, ty, not_null)| ColumnDescriptor {
            name: (*name).to_owned(),
            ty: TypeMod::plain(*ty),
            not_null: *not_null,
            dropped: false,
            added_in: 0,
            missing: Datum::Null,
        });
        TableBuilder {
            descriptor: TableDescriptor {
                oid: Oid(oid),
                schema: "public".to_owned(),
                name: name.to_owned(),
                storage: StorageId(oid),
                version: 1,
                columns: columns.collect(),
                primary_key: key.to_vec(),
                primary_key_name: (!key.is_empty()).then(|| format!("{name}_pkey")),
                placement: Placement::Home(ShardId(1)),
                placement_epoch: 0,
                indexes: vec![],
                checks: vec![],
                foreign_keys: vec![],
                referenced_by: vec![],
            },
        }
    }

    /// Slots go round the shards 1 to `n_shards`.
    pub fn hash(mut self, key: &[usize], group: u32, n_shards: u32) -> Self {
        let owner = (0..u32::from(SLOTS)).map(|slot| ShardId(slot % n_shards + 1)).collect();
        let map = Arc::new(SlotMap { group: Oid(group), epoch: 1, owner });
        self.descriptor.placement = Placement::Hash { key: key.to_vec(), map };
        self
    }

    /// Ranges of an int4 column, one for each shard, from these values on.
    pub fn range(mut self, column: usize, splits: &[i32], n_shards: u32) -> Self {
        let splits: Vec<Vec<u8>> = splits
            .iter()
            .map(|split| {
                let mut bytes = Vec::new();
                let order = key::KeyOrder::default();
                key::encode_datum(&mut bytes, &Datum::Int4(*split), SqlType::Int4, order);
                bytes
            })
            .collect();
        let owner = (0..=splits.len() as u32).map(|range| ShardId(range % n_shards + 1)).collect();
        let map = RangeMap { group: self.descriptor.oid, epoch: 1, splits, owner };
        self.descriptor.placement = Placement::Range { key: vec![column], map: Arc::new(map) };
        self
    }

    pub fn reference(mut self, n_shards: u32) -> Self {
        self.descriptor.placement = Placement::Reference((1..=n_shards).map(ShardId).collect());
        self
    }

    pub fn index(mut self, name: &str, columns: &[(usize, bool)], unique: bool) -> Self {
        let number = self.descriptor.indexes.len() as u32;
        let columns = columns.iter().map(|(column, descending)| IndexColumn {
            column: *column,
            descending: *descending,
            nulls_first: *descending,
        });
        self.descriptor.indexes.push(IndexDescriptor {
            oid: Oid(self.descriptor.oid.0 * 100 + number),
            name: name.to_owned(),
            storage: StorageId(self.descriptor.storage.0 * 100 + number),
            unique,
            constraint: unique,
            columns: columns.collect(),
            state: IndexState::Public,
        });
        self
    }

    pub fn build(self) -> Arc<catalog::Table> {
        let columns = self.descriptor.columns.iter().map(|_| catalog::ColumnExtra::default());
        Arc::new(catalog::Table {
            schema: Oid(2200),
            owner: Oid(10),
            columns: columns.collect(),
            descriptor: Arc::new(self.descriptor),
            primary_key_oids: None,
            unique_constraints: vec![],
            options: vec![],
            check_sql: vec![],
        })
    }
}

/// The plan as a shard in another process would read it: the same in all that shows.
fn travelled(
    fragment: &dyn FragmentPlan,
    original: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>, ShardError> {
    let (version, bytes) = fragment.encode()?;
    let plan = codec::decode(version, &bytes)?.plan;
    let shown = |plan: &Arc<dyn ExecutionPlan>| {
        let fields: Vec<_> = plan.schema().fields().iter().map(described).collect();
        let ordering = plan.output_ordering().map(ToString::to_string);
        format!("{fields:?} {ordering:?}\n{}", displayable(plan.as_ref()).indent(true))
    };
    assert_eq!(shown(&plan), shown(original));
    Ok(plan)
}

fn described(field: &FieldRef) -> (String, DataType, bool) {
    (field.name().clone(), field.data_type().clone(), field.is_nullable())
}
