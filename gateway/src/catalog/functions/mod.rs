//! Functions that ask the catalog: definitions, names, visibility, privileges, sizes, comments, sequences.
//!
//! `call` answers by the signature's name; what it does not know goes to the session (`SessionInfo::call_other`).

use std::time::Duration;

use cortex_planner::catalog::edit::{DATABASE, DATABASE_NAME, class};
use cortex_shard_api::{
    Datum, Oid, ShardError, ShardId, SqlType, ValueError, ValueErrorKind, value::ArrayValue,
};
use tokio::runtime::RuntimeFlavor;

use super::SessionInfo;
use crate::error::SHARD_DOWN_HINT;

/// Objects by name, and names of objects.
mod names;

/// `pg_get_*def` and their like.
mod definitions;

/// `has_*_privilege`.
mod privileges;

/// nextval, currval, setval, lastval.
mod sequences;

/// Bytes of relations.
mod sizes;

type Result<T> = std::result::Result<T, ValueError>;

/// One call.
pub(crate) struct Call<'a> {
    session: &'a dyn SessionInfo,
    signature: &'a str,
    args: &'a [Datum],
}

/// Answers a call of a function that depends on the catalog or the session.
pub fn call(session: &dyn SessionInfo, signature: &str, args: &[Datum]) -> Result<Datum> {
    let call = Call { session, signature, args };
    let name = signature.split('(').next().unwrap_or(signature);
    if let Some(answer) = call.by_name(name) {
        return answer;
    }
    session.call_other(signature, args).unwrap_or_else(|| {
        Err(ValueError::new(
            ValueErrorKind::Unsupported,
            format!("function {signature} is not supported"),
        ))
    })
}

impl Call<'_> {
    fn by_name(&self, name: &str) -> Option<Result<Datum>> {
        if name.starts_with("has_") || name == "pg_has_role" {
            return Some(self.privilege(name));
        }
        Some(match name {
            "text" => self.name_of_object(),
            "regclass" | "regtype" | "regproc" | "regnamespace" | "regrole" => {
                self.object_of_name(name).map(|found| found.map_or(Datum::Null, Datum::Oid))
            }
            "to_regclass" | "to_regtype" | "to_regproc" | "to_regnamespace" | "to_regrole" => {
                let kind = name.trim_start_matches("to_");
                self.object_of_name(kind).map(|found| found.map_or(Datum::Null, Datum::Oid))
            }
            "nextval" => self.nextval(),
            "currval" => self.currval(),
            "lastval" => self.lastval(),
            "setval" => self.setval(),
            "pg_sequence_last_value" => self.sequence_last_value(),
            "pg_get_serial_sequence" => self.serial_sequence(),
            "pg_get_indexdef"
            | "pg_get_constraintdef"
            | "pg_get_expr"
            | "pg_get_viewdef"
            | "pg_get_function_arguments"
            | "pg_get_function_identity_arguments"
            | "pg_get_function_result" => self.definition(name),
            // Nothing of the kind exists, so there is nothing to print.
            "pg_get_ruledef"
            | "pg_get_triggerdef"
            | "pg_get_functiondef"
            | "pg_get_function_sqlbody"
            | "pg_get_function_arg_default"
            | "pg_get_partkeydef"
            | "pg_get_partition_constraintdef"
            | "pg_get_statisticsobjdef"
            | "pg_get_statisticsobjdef_columns" => Ok(Datum::Null),
            "pg_table_is_visible" => self.table_is_visible(),
            "pg_type_is_visible"
            | "pg_function_is_visible"
            | "pg_operator_is_visible"
            | "pg_opclass_is_visible"
            | "pg_opfamily_is_visible"
            | "pg_collation_is_visible"
            | "pg_conversion_is_visible"
            | "pg_statistics_obj_is_visible"
            | "pg_ts_config_is_visible"
            | "pg_ts_dict_is_visible"
            | "pg_ts_parser_is_visible"
            | "pg_ts_template_is_visible" => Ok(Datum::Bool(true)),
            "obj_description" => self.description(0),
            "shobj_description" => self.description(0),
            "col_description" => self.column_description(),
            "pg_get_userbyid" => self.user_by_id(),
            "pg_describe_object" => self.describe_object(),
            "current_schema" => Ok(maybe_text(self.schemas(false).into_iter().next())),
            "current_schemas" => {
                let implicit = matches!(self.args.first(), Some(Datum::Bool(true)));
                Ok(name_array(self.schemas(implicit)))
            }
            "current_user" | "current_role" | "user" => Ok(text(self.session.current_user())),
            "session_user" => Ok(text(self.session.session_user())),
            "current_database" | "current_catalog" => Ok(text(DATABASE_NAME)),
            "current_setting" => self.current_setting(),
            "set_config" => self.set_config(),
            "pg_backend_pid" => Ok(Datum::Int4(self.session.process_id())),
            "pg_relation_size" | "pg_table_size" | "pg_indexes_size" | "pg_total_relation_size" => {
                self.relation_size(name)
            }
            "pg_database_size" | "pg_tablespace_size" => self.database_size(),
            "pg_relation_filenode" => self.relation_filenode(),
            "pg_tablespace_location" => Ok(text("")),
            "pg_relation_is_publishable" | "row_security_active" => Ok(Datum::Bool(false)),
            // There is none to unlock: taking one is refused. Pools ask for it whenever a session comes back.
            "pg_advisory_unlock_all" => Ok(Datum::Null),
            "pg_is_other_temp_schema" => Ok(Datum::Bool(false)),
            "pg_my_temp_schema" => Ok(Datum::Oid(0)),
            "pg_trigger_depth" => Ok(Datum::Int4(0)),
            "pg_blocking_pids" => Ok(Datum::Array(Box::new(ArrayValue {
                element: SqlType::Int4,
                lower_bound: 1,
                elements: Vec::new(),
            }))),
            _ => return None,
        })
    }

    fn oid(&self, position: usize) -> Option<Oid> {
        match self.args.get(position)? {
            Datum::Oid(oid) => Some(Oid(*oid)),
            Datum::Int4(oid) => Some(Oid(*oid as u32)),
            Datum::Int8(oid) => u32::try_from(*oid).ok().map(Oid),
            _ => None,
        }
    }

    fn text(&self, position: usize) -> Option<&str> {
        match self.args.get(position)? {
            Datum::Text(text) => Some(text),
            _ => None,
        }
    }

    fn boolean(&self, position: usize) -> bool {
        matches!(self.args.get(position), Some(Datum::Bool(true)))
    }

    fn integer(&self, position: usize) -> Option<i64> {
        match self.args.get(position)? {
            Datum::Int2(value) => Some((*value).into()),
            Datum::Int4(value) => Some((*value).into()),
            Datum::Int8(value) => Some(*value),
            _ => None,
        }
    }

    /// Schemas of the search path that exist, pg_catalog in front where it is implied.
    fn schemas(&self, implicit: bool) -> Vec<String> {
        let catalog = self.session.catalog();
        let path = self.session.search_path();
        let listed = path.iter().any(|schema| schema == "pg_catalog");
        let mut schemas = Vec::new();
        if implicit && !listed {
            schemas.push("pg_catalog".to_owned());
        }
        schemas.extend(path.into_iter().filter(|name| catalog.schema_by_name(name).is_some()));
        schemas
    }

    fn current_setting(&self) -> Result<Datum> {
        let name = self.text(0).unwrap_or_default();
        match self.session.setting(name) {
            Some(value) => Ok(text(value)),
            None if self.boolean(1) => Ok(Datum::Null),
            None => Err(ValueError::new(
                ValueErrorKind::UndefinedObject,
                format!("unrecognized configuration parameter \"{name}\""),
            )),
        }
    }

    fn set_config(&self) -> Result<Datum> {
        let Some(name) = self.text(0) else {
            return Err(ValueError::new(
                ValueErrorKind::NullNotAllowed,
                "SET requires parameter name",
            ));
        };
        let value = self.text(1).unwrap_or_default();
        self.session.set_setting(name, value, self.boolean(2)).map(text)
    }

    fn user_by_id(&self) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        Ok(match catalog.roles.get(&oid) {
            Some(role) => text(&role.name),
            None => text(format!("unknown (OID={oid})")),
        })
    }

    /// `obj_description(oid, catalog)`, `obj_description(oid)`.
    fn description(&self, column: i32) -> Result<Datum> {
        let object = self.oid(0).unwrap_or_default();
        let wanted = self.text(1).map(class_by_name);
        let catalog = self.session.catalog();
        let found = catalog.comments.iter().find(|(key, _)| {
            key.object == object
                && key.column == column
                && wanted.is_none_or(|class| class == Some(key.class))
        });
        if let Some((_, comment)) = found {
            return Ok(text(comment));
        }
        Ok(maybe_text(names::builtin_description(object, wanted.flatten())))
    }

    fn column_description(&self) -> Result<Datum> {
        let object = self.oid(0).unwrap_or_default();
        let column = self.integer(1).unwrap_or_default() as i32;
        let catalog = self.session.catalog();
        let found = catalog.comments.iter().find(|(key, _)| {
            key.class == class::RELATION && key.object == object && key.column == column
        });
        Ok(maybe_text(found.map(|(_, comment)| comment)))
    }
}

fn class_by_name(name: &str) -> Option<Oid> {
    const CLASSES: &[(&str, Oid)] = &[
        ("pg_class", class::RELATION),
        ("pg_namespace", class::SCHEMA),
        ("pg_constraint", class::CONSTRAINT),
        ("pg_type", class::TYPE),
        ("pg_proc", class::PROC),
        ("pg_database", class::DATABASE),
        ("pg_authid", class::ROLE),
        ("pg_extension", class::EXTENSION),
    ];
    let name = name.trim_start_matches("pg_catalog.");
    CLASSES.iter().find(|(other, _)| *other == name).map(|(_, oid)| *oid)
}

/// The database's OID, for functions that take one.
const fn is_database(oid: Oid) -> bool {
    oid.0 == DATABASE.0
}

/// What a shard answers to a call from inside a plan, on a thread that a task of tokio may be running on. An answer that is there
/// at once, as a shard in the same process gives it, is taken without ado. One that is not is waited for at most `limit`, by the
/// thread's own clock: the runtime's would stand still if all of its threads waited here.
///
/// Unconstrained: the task's cooperative budget is not renewed meanwhile, and an exhausted one would make every channel answer
/// "not yet" for ever.
fn ask<T: Send + 'static>(
    shard: ShardId,
    limit: Duration,
    answer: impl Future<Output = std::result::Result<T, ShardError>> + Send + 'static,
) -> std::result::Result<T, ShardError> {
    let mut answer = Box::pin(tokio::task::unconstrained(answer));
    let mut at_once = std::task::Context::from_waker(std::task::Waker::noop());
    if let std::task::Poll::Ready(answer) = answer.as_mut().poll(&mut at_once) {
        return answer;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return futures::executor::block_on(answer);
    };
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let task = runtime.spawn(async move {
        let _ = sender.send(answer.await);
    });
    let wait = || receiver.recv_timeout(limit);
    let received = match runtime.runtime_flavor() {
        // Another thread takes over what this one was to do next: the task just spawned, or the one that reads the answer.
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(wait),
        _ => wait(),
    };
    received.unwrap_or_else(|_| {
        task.abort();
        let reason = format!("it did not answer within {} s", limit.as_secs());
        Err(ShardError::Unavailable { shard, reason })
    })
}

/// A shard's error as a function's.
fn shard_error(error: ShardError) -> ValueError {
    match error {
        ShardError::Value(error) => error,
        ShardError::Unavailable { .. } => {
            ValueError::new(ValueErrorKind::ShardUnavailable, error.to_string())
                .with_hint(SHARD_DOWN_HINT)
        }
        other => ValueError::new(ValueErrorKind::Internal, other.to_string()),
    }
}

fn text(text: impl AsRef<str>) -> Datum {
    Datum::Text(text.as_ref().into())
}

fn maybe_text(value: Option<impl AsRef<str>>) -> Datum {
    value.map_or(Datum::Null, text)
}

fn name_array(names: Vec<String>) -> Datum {
    Datum::Array(Box::new(ArrayValue {
        element: SqlType::Name,
        lower_bound: 1,
        elements: names.into_iter().map(text).collect(),
    }))
}
