//! `pg_get_indexdef`, `pg_get_constraintdef`, `pg_get_viewdef` and their like.

use cortex_functions::registry;
use cortex_planner::catalog::deparse;
use cortex_shard_api::{Datum, Oid, SqlType, TypeMod, value::text::type_name};

use super::{
    Call, Result, maybe_text,
    names::{relation_by_name, split_name},
    text,
};
use crate::catalog::administration;

impl Call<'_> {
    pub(super) fn definition(&self, name: &str) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        Ok(maybe_text(match name {
            "pg_get_indexdef" => {
                let column = self.integer(1).unwrap_or(0).max(0) as usize;
                catalog.index(oid).map(|(table, position)| {
                    deparse::index_definition(&catalog, table, position, column)
                })
            }
            "pg_get_constraintdef" => {
                deparse::constraint_definition(&catalog, oid, self.boolean(1))
            }
            // Expressions are kept in the relations as the text that this prints.
            "pg_get_expr" => self.text(0).map(str::to_owned),
            "pg_get_viewdef" => {
                let oid = match self.text(0) {
                    Some(name) => relation_by_name(self.session, &split_name(name)?)?,
                    None => Some(oid),
                };
                let view = oid.and_then(|oid| catalog.views.get(&oid));
                view.map(|view| format!(" {};", view.sql))
            }
            _ => function_part(name, oid),
        }))
    }

    /// `pg_get_serial_sequence(table, column)`
    pub(super) fn serial_sequence(&self) -> Result<Datum> {
        use cortex_shard_api::{ValueError, ValueErrorKind};
        let (table, column) = (self.text(0).unwrap_or_default(), self.text(1).unwrap_or_default());
        let catalog = self.session.catalog();
        let found = relation_by_name(self.session, &split_name(table)?)?;
        let Some(table) = found.and_then(|oid| catalog.tables.get(&oid)) else {
            return Err(ValueError::new(
                ValueErrorKind::UndefinedTable,
                format!("relation \"{table}\" does not exist"),
            ));
        };
        let Some(position) = table.descriptor.column(column) else {
            return Err(ValueError::new(
                ValueErrorKind::UndefinedColumn,
                format!(
                    "column \"{column}\" of relation \"{}\" does not exist",
                    table.descriptor.name
                ),
            ));
        };
        let owner = Some((table.descriptor.oid, position));
        let sequence = catalog.sequences.values().find(|sequence| sequence.owned_by == owner);
        Ok(match sequence {
            None => Datum::Null,
            Some(sequence) => {
                let schema = catalog.schemas.get(&sequence.schema);
                let schema = schema.map_or("public", |schema| schema.name.as_str());
                text(format!("{}.{}", deparse::quote(schema), deparse::quote(&sequence.name)))
            }
        })
    }
}

/// Arguments or result of a built-in function.
fn function_part(name: &str, oid: Oid) -> Option<String> {
    if let Some(function) = administration::by_oid(oid) {
        return Some(match name {
            "pg_get_function_result" => function.result_text(),
            "pg_get_function_identity_arguments" => function.arguments_text(false),
            _ => function.arguments_text(true),
        });
    }
    let function = registry::functions().into_iter().find(|function| function.oid == oid.0)?;
    let shown = |oid: u32| match SqlType::from_oid(oid) {
        Some(ty) => type_name(TypeMod::plain(ty)),
        None => match oid {
            2276 => "\"any\"".to_owned(),
            2277 => "anyarray".to_owned(),
            2283 => "anyelement".to_owned(),
            5077 => "anycompatible".to_owned(),
            5078 => "anycompatiblearray".to_owned(),
            other => other.to_string(),
        },
    };
    if name == "pg_get_function_result" {
        let set = if function.returns_set { "SETOF " } else { "" };
        return Some(format!("{set}{}", shown(function.returns)));
    }
    let last = function.args.len().saturating_sub(1);
    let args: Vec<String> = function
        .args
        .iter()
        .enumerate()
        .map(|(position, oid)| {
            let variadic =
                if function.variadic != 0 && position == last { "VARIADIC " } else { "" };
            format!("{variadic}{}", shown(*oid))
        })
        .collect();
    Some(args.join(", "))
}
