//! Foreign keys inside a shard.

use std::sync::Arc;

use cortex_shard_api::{
    Datum, Oid, ScalarExpr, ShardError, SqlType, TableDescriptor, TxnId, TypeMod,
    client::{RequestContext, RowUpdate, ShardClient, WriteOp, WriteOutcome, WriteRequest},
    descriptor::{ForeignKeyDescriptor, ReferentialAction},
};

use super::{get, index, insert, int_row, key_of, open, rows, table};
use crate::{Shard, StorageKind};

struct Family {
    shard: Arc<Shard>,
    parent: Arc<TableDescriptor>,
    child: Arc<TableDescriptor>,
    _directory: tempfile::TempDir,
}

/// Parents 1 and 2; children 10 and 11 of 1, 12 without a parent.
async fn family(action: ReferentialAction, indexed: bool) -> Family {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut parent = table(100);
    parent.referenced_by = vec![Oid(200)];
    let mut child = table(200);
    if indexed {
        child.indexes = vec![index(201, 1, false)];
    }
    child.foreign_keys = vec![ForeignKeyDescriptor {
        oid: Oid(300),
        name: "t200_v_fkey".into(),
        columns: vec![1],
        parent: Oid(100),
        parent_columns: vec![0],
        on_delete: action,
        on_update: action,
        set_default: vec![ScalarExpr::Literal {
            value: Datum::Int4(2),
            ty: TypeMod::plain(SqlType::Int4),
        }],
    }];
    let (parent, child) = (Arc::new(parent), Arc::new(child));
    let family = Family { shard, parent, child, _directory: directory };
    family
        .write(&family.parent, insert(vec![int_row(1, 0), int_row(2, 0)]))
        .await
        .expect("parents");
    let children = vec![int_row(10, 1), int_row(11, 1), vec![Datum::Int4(12), Datum::Null]];
    family.write(&family.child, insert(children)).await.expect("children");
    family
}

impl Family {
    async fn write(&self, table: &Arc<TableDescriptor>, op: WriteOp) -> Result<u64, ShardError> {
        let request = WriteRequest {
            context: RequestContext::default(),
            table: table.clone(),
            related: Arc::from([self.parent.clone(), self.child.clone()]),
            op,
            commit: true,
            returning: false,
            more: false,
        };
        match self.shard.write(request).await? {
            WriteOutcome::Done { affected, .. } => Ok(affected),
            WriteOutcome::Retry => panic!("nobody else is here"),
        }
    }

    async fn delete_parent(&self, id: i32) -> Result<u64, ShardError> {
        let key = key_of(&self.parent, id);
        let parameters = Arc::from([]);
        self.write(&self.parent, WriteOp::DeleteByKey { key, predicate: None, parameters }).await
    }

    async fn renumber_parent(&self, from: i32, to: i32) -> Result<u64, ShardError> {
        let auto = RequestContext::default();
        let old = get(&self.shard, auto, &self.parent, from).await.expect("the parent");
        let update = RowUpdate { key: old.key, seen: old.version, row: int_row(to, 0) };
        self.write(&self.parent, WriteOp::Update { rows: vec![update], assigned: vec![0] }).await
    }

    async fn children(&self) -> Vec<(i32, Option<i32>)> {
        rows(&self.shard, RequestContext::default(), &self.child).await
    }
}

#[tokio::test]
async fn a_child_needs_its_parent() {
    let family = family(ReferentialAction::NoAction, false).await;
    match family.write(&family.child, insert(vec![int_row(13, 5)])).await {
        Err(ShardError::ForeignKeyViolation { message, detail, table, .. }) => {
            assert_eq!(
                message,
                "insert or update on table \"t200\" violates foreign key constraint \"t200_v_fkey\""
            );
            assert_eq!(detail, "Key (v)=(5) is not present in table \"t100\".");
            assert_eq!(table, "t200");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(family.children().await.len(), 3);
    assert!(family.shard.core.locks.is_idle());
}

#[tokio::test]
async fn a_parent_with_children_stays() {
    for action in [ReferentialAction::NoAction, ReferentialAction::Restrict] {
        for indexed in [false, true] {
            let family = family(action, indexed).await;
            match family.delete_parent(1).await {
                Err(ShardError::ForeignKeyViolation { message, detail, .. }) => {
                    assert_eq!(
                        message,
                        "update or delete on table \"t100\" violates foreign key constraint \"t200_v_fkey\" on table \"t200\""
                    );
                    assert_eq!(detail, "Key (id)=(1) is still referenced from table \"t200\".");
                }
                other => panic!("{other:?}"),
            }
            assert!(family.renumber_parent(1, 3).await.is_err());
            assert_eq!(family.delete_parent(2).await.expect("no children"), 1);
            assert_eq!(
                rows(&family.shard, RequestContext::default(), &family.parent).await.len(),
                1
            );
        }
    }
}

#[tokio::test]
async fn cascades_follow_deletes_and_new_keys() {
    for indexed in [false, true] {
        let family = family(ReferentialAction::Cascade, indexed).await;
        assert_eq!(family.renumber_parent(1, 7).await.expect("renumber"), 1);
        assert_eq!(family.children().await, [(10, Some(7)), (11, Some(7)), (12, None)]);
        assert_eq!(family.delete_parent(7).await.expect("delete"), 1);
        assert_eq!(family.children().await, [(12, None)]);
        let stats = family.shard.storage_stats(family.child.storage).await.expect("stats");
        assert_eq!(stats.rows, 1);
    }
}

#[tokio::test]
async fn set_null_keeps_the_children() {
    let family = family(ReferentialAction::SetNull, true).await;
    assert_eq!(family.delete_parent(1).await.expect("delete"), 1);
    assert_eq!(family.children().await, [(10, None), (11, None), (12, None)]);
}

#[tokio::test]
async fn set_default_gives_the_children_another_parent() {
    for indexed in [false, true] {
        let family = family(ReferentialAction::SetDefault, indexed).await;
        assert_eq!(family.delete_parent(1).await.expect("delete"), 1);
        assert_eq!(family.children().await, [(10, Some(2)), (11, Some(2)), (12, None)]);
        // The default parent itself cannot go while it has children.
        match family.delete_parent(2).await {
            Err(ShardError::ForeignKeyViolation { message, .. }) => assert!(
                message.starts_with("update or delete on table \"t100\" violates"),
                "{message}"
            ),
            other => panic!("{other:?}"),
        }
        assert_eq!(family.children().await.len(), 3);
    }
}

/// A table whose `v` refers to its own `id`.
fn tree() -> (Arc<Shard>, Arc<TableDescriptor>, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let shard = open(directory.path(), StorageKind::Memory);
    let mut tree = table(100);
    tree.referenced_by = vec![Oid(100)];
    tree.foreign_keys = vec![ForeignKeyDescriptor {
        oid: Oid(300),
        name: "t100_v_fkey".into(),
        columns: vec![1],
        parent: Oid(100),
        parent_columns: vec![0],
        on_delete: ReferentialAction::NoAction,
        on_update: ReferentialAction::NoAction,
        set_default: Vec::new(),
    }];
    (shard, Arc::new(tree), directory)
}

#[tokio::test]
async fn a_statement_in_several_requests_is_checked_with_its_last() {
    let (shard, tree, _directory) = tree();
    let send = |op: WriteOp, mark: u32, more: bool| {
        let request = WriteRequest { more, ..super::request(super::in_txn(1, mark), &tree, op) };
        shard.write(request)
    };
    // 1 refers to 2, which comes with the second request.
    send(insert(vec![int_row(1, 2)]), 1, true).await.expect("not checked yet");
    send(insert(vec![int_row(2, 2)]), 1, false).await.expect("both are there");
    // A request without rows ends a statement, and finds what is missing.
    send(insert(vec![int_row(3, 9)]), 2, true).await.expect("not checked yet");
    let missing = send(insert(Vec::new()), 2, false).await;
    assert!(matches!(missing, Err(ShardError::ForeignKeyViolation { .. })), "{missing:?}");
    // The gateway undoes the statement's other requests.
    shard.rollback_to(TxnId(1), 2).await.expect("undone");
    // What another statement owes does not come up in the next one.
    send(insert(vec![int_row(4, 9)]), 3, true).await.expect("not checked yet");
    shard.rollback_to(TxnId(1), 3).await.expect("undone");
    let key = |id| WriteOp::DeleteByKey {
        key: key_of(&tree, id),
        predicate: None,
        parameters: Arc::from([]),
    };
    send(key(2), 4, true).await.expect("not checked yet");
    send(key(1), 4, false).await.expect("the whole tree is gone");
    shard.commit(TxnId(1)).await.expect("commits");
    assert!(rows(&shard, RequestContext::default(), &tree).await.is_empty());
    assert!(shard.core.locks.is_idle());
}
