//! Functions about the server and its objects. Those that need the session or the catalog go through `SessionFunctions`.

use std::time::{Duration, Instant};

use cortex_shard_api::{Datum, SqlType, TypeMod, ValueError, ValueErrorKind};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Call, Kernel, Result, error, int, invalid_parameter, make_text, text};
use crate::{
    registry,
    session::{EvalContext, Stop},
};

/// Answered by `SessionFunctions::call` with the call's signature.
pub(crate) const SESSION_FUNCTIONS: &[&str] = &[
    "col_description",
    "current_catalog",
    "current_database",
    "current_query",
    "current_role",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "currval",
    "has_any_column_privilege",
    "has_column_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_schema_privilege",
    "has_sequence_privilege",
    "has_table_privilege",
    "has_tablespace_privilege",
    "has_type_privilege",
    "has_foreign_data_wrapper_privilege",
    "has_language_privilege",
    "has_server_privilege",
    "inet_client_port",
    "inet_server_port",
    "lastval",
    "nextval",
    "obj_description",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_cancel_backend",
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_database_size",
    "pg_describe_object",
    "pg_function_is_visible",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arg_default",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_function_sqlbody",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_partition_constraintdef",
    "pg_get_partkeydef",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef",
    "pg_get_statisticsobjdef_columns",
    "pg_get_triggerdef",
    "pg_get_userbyid",
    "pg_get_viewdef",
    "pg_has_role",
    "pg_indexes_size",
    "pg_is_other_temp_schema",
    "pg_my_temp_schema",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_postmaster_start_time",
    "pg_relation_filenode",
    "pg_relation_is_publishable",
    "pg_relation_size",
    "pg_sequence_last_value",
    "pg_statistics_obj_is_visible",
    "pg_table_is_visible",
    "pg_table_size",
    "pg_tablespace_location",
    "pg_tablespace_size",
    "pg_terminate_backend",
    "pg_total_relation_size",
    "pg_trigger_depth",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
    "row_security_active",
    "session_user",
    "set_config",
    "setval",
    "shobj_description",
    "to_regclass",
    "to_regnamespace",
    "to_regproc",
    "to_regrole",
    "to_regtype",
    "txid_current",
    "txid_current_if_assigned",
    "user",
];

/// The longest `pg_sleep`, in seconds: it holds a thread, if not one of the executor's. Longer ones are refused.
const SLEEP_SECONDS_MAX: f64 = 600.0;

/// How long a statement that was cancelled may go on sleeping.
const SLEEP_SLICE: Duration = Duration::from_millis(20);

pub(super) fn find(name: &str, args: &[Option<SqlType>]) -> Option<Kernel> {
    Some(match name {
        "version" => |_, _| Ok(make_text(VERSION)),
        "pg_typeof" => |call, _| Ok(Datum::Oid(call.args[0].oid())),
        "format_type" => format_type,
        "pg_size_pretty" => size_pretty,
        "pg_size_bytes" => return None,
        "pg_encoding_to_char" => |_, args| {
            Ok(make_text(match int(&args[0])? {
                0 => "SQL_ASCII",
                6 => "UTF8",
                _ => "",
            }))
        },
        "pg_char_to_encoding" => |_, args| {
            let name = text(&args[0])?.to_ascii_lowercase();
            Ok(Datum::Int4(if matches!(name.as_str(), "utf8" | "utf-8" | "unicode") {
                6
            } else {
                -1
            }))
        },
        "pg_client_encoding" | "getdatabaseencoding" => |_, _| Ok(make_text("UTF8")),
        "pg_is_in_recovery" => |_, _| Ok(Datum::Bool(false)),
        "pg_sleep" => sleep,
        "gen_random_uuid" => |_, _| Ok(Datum::Uuid(*uuid::Uuid::new_v4().as_bytes())),
        "pg_column_size" => |call, args| {
            let mut bytes = Vec::new();
            cortex_shard_api::value::binary::encode(&args[0], call.args[0], &mut bytes);
            Ok(Datum::Int4(bytes.len() as i32))
        },
        "num_nulls" => |_, args| {
            Ok(Datum::Int4(args.iter().filter(|arg| matches!(arg, Datum::Null)).count() as i32))
        },
        "num_nonnulls" => |_, args| {
            Ok(Datum::Int4(args.iter().filter(|arg| !matches!(arg, Datum::Null)).count() as i32))
        },
        // Comparisons and arithmetic of booleans in aggregates' helper functions.
        "booland_statefunc" => {
            |_, args| Ok(Datum::Bool(super::boolean(&args[0])? && super::boolean(&args[1])?))
        }
        "boolor_statefunc" => {
            |_, args| Ok(Datum::Bool(super::boolean(&args[0])? || super::boolean(&args[1])?))
        }
        // The functions of pg_cast: int4(float8), text(bool), timestamptz(date), ...
        _ if args.len() == 1 && is_conversion(name, args[0]) => |call, args| {
            crate::scalar::cast_value(
                args[0].clone(),
                call.args[0],
                call.returns,
                true,
                call.context,
            )
        },
        _ => return None,
    })
}

const VERSION: &str = concat!(
    "PostgreSQL 15.18 (CortexDB ",
    env!("CARGO_PKG_VERSION"),
    ") on x86_64-pc-linux-gnu, compiled by rustc, 64-bit"
);

fn is_conversion(name: &str, from: Option<SqlType>) -> bool {
    from.is_some()
        && matches!(
            name,
            "bool"
                | "int2"
                | "int4"
                | "int8"
                | "float4"
                | "float8"
                | "numeric"
                | "text"
                | "bpchar"
                | "varchar"
                | "char"
                | "name"
                | "date"
                | "time"
                | "timestamp"
                | "timestamptz"
                | "interval"
                | "oid"
                | "regclass"
                | "jsonb"
                | "json"
        )
}

fn format_type(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let Datum::Oid(oid) = &args[0] else { return Ok(Datum::Null) };
    let typmod = match &args[1] {
        Datum::Null => -1,
        value => int(value)? as i32,
    };
    Ok(make_text(type_name_by_oid(*oid, typmod)))
}

/// The names of types that are only names here.
pub(crate) fn type_name_by_oid(oid: u32, typmod: i32) -> String {
    match SqlType::from_oid(oid) {
        Some(ty) => cortex_shard_api::value::text::type_name(TypeMod { ty, typmod }),
        None => match oid {
            0 => "-".to_owned(),
            22 => "int2vector".to_owned(),
            27 => "tid".to_owned(),
            28 => "xid".to_owned(),
            29 => "cid".to_owned(),
            30 => "oidvector".to_owned(),
            194 => "pg_node_tree".to_owned(),
            1033 => "aclitem".to_owned(),
            1034 => "aclitem[]".to_owned(),
            2276 => "\"any\"".to_owned(),
            2277 => "anyarray".to_owned(),
            2283 => "anyelement".to_owned(),
            2776 => "anynonarray".to_owned(),
            2281 => "internal".to_owned(),
            2275 => "cstring".to_owned(),
            5077 => "anycompatible".to_owned(),
            5078 => "anycompatiblearray".to_owned(),
            5079 => "anycompatiblenonarray".to_owned(),
            3220 => "pg_lsn".to_owned(),
            _ => "???".to_owned(),
        },
    }
}

/// 10 kB from 10240 bytes on; halves round away from zero, as Postgres's shifts do.
fn size_pretty(_call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let size = match &args[0] {
        Datum::Numeric(value) => value.round(0).to_i64()?,
        value => int(value)?,
    };
    const UNITS: &[&str] = &["bytes", "kB", "MB", "GB", "TB", "PB"];
    let negative = size < 0;
    // The magnitude in halves of the current unit, once past bytes.
    let mut value = u128::from(size.unsigned_abs());
    let mut unit = 0;
    if value >= 10 * 1024 {
        value /= 512;
        unit = 1;
        while unit + 1 < UNITS.len() && value >= 20 * 1024 - 1 {
            value /= 1024;
            unit += 1;
        }
        value = value.div_ceil(2);
    }
    Ok(make_text(format!("{}{value} {}", if negative { "-" } else { "" }, UNITS[unit])))
}

fn sleep(call: &Call<'_>, args: &[Datum]) -> Result<Datum> {
    let seconds = super::float(&args[0])?;
    if seconds > SLEEP_SECONDS_MAX {
        return invalid_parameter(format!("pg_sleep is limited to {SLEEP_SECONDS_MAX} seconds"));
    }
    if seconds > 0.0 {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let sleep = || sleep_until(until, &call.context.stop);
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // Another thread takes over what this one was to do.
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(sleep),
            _ => sleep(),
        }
    }
    if call.context.stop.is_set() {
        return error(ValueErrorKind::Internal, "the statement ended while it slept");
    }
    Ok(make_text(""))
}

fn sleep_until(until: Instant, stop: &Stop) {
    while !stop.is_set() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(SLEEP_SLICE));
    }
}

/// How a reg* value prints: the object's name, or its number where there is none.
pub(crate) fn object_name(value: &Datum, ty: SqlType, context: &EvalContext) -> Result<String> {
    let Datum::Oid(oid) = value else {
        return error(ValueErrorKind::Internal, "a reg* value is an OID");
    };
    if *oid == 0 {
        return Ok("-".to_owned());
    }
    if ty == SqlType::Regtype && SqlType::from_oid(*oid).is_some() {
        return Ok(type_name_by_oid(*oid, -1));
    }
    match &context.session {
        Some(session) => {
            let signature = format!("text({})", ty.catalog_name());
            match session.call(&signature, std::slice::from_ref(value))? {
                Datum::Text(name) => Ok(name.into()),
                _ => Ok(oid.to_string()),
            }
        }
        None => Ok(oid.to_string()),
    }
}

/// Text to a reg* type: a number, `-`, or the name of an object.
pub(crate) fn object_by_name(name: &str, ty: SqlType, context: &EvalContext) -> Result<Datum> {
    let trimmed = name.trim();
    if trimmed == "-" {
        return Ok(Datum::Oid(0));
    }
    if let Ok(oid) = trimmed.parse::<u32>() {
        return Ok(Datum::Oid(oid));
    }
    if ty == SqlType::Regtype
        && let Some(named) = registry::type_by_name(trimmed)
    {
        return Ok(Datum::Oid(named.oid()));
    }
    match &context.session {
        Some(session) => {
            session.call(&format!("{}(text)", ty.catalog_name()), &[make_text(trimmed)])
        }
        None => Err(ValueError::new(
            ValueErrorKind::Unsupported,
            format!("a name cannot be looked up as {} here", ty.sql_name()),
        )),
    }
}
