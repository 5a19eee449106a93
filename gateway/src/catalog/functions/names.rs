//! Objects by name, and names of objects: regclass and its like, visibility.

use std::{collections::HashMap, sync::LazyLock};

use cortex_functions::registry;
use cortex_planner::catalog::{Catalog, deparse, edit::class};
use cortex_shard_api::{Datum, Oid, SqlType, TypeMod, ValueError, ValueErrorKind, value};

use super::{Call, Result, maybe_text, text};
use crate::catalog::{SessionInfo, administration, relations};

/// Built-in functions by name; several may share one.
static FUNCTIONS: LazyLock<HashMap<u32, &'static str>> = LazyLock::new(|| {
    let ours = registry::functions().into_iter().map(|function| (function.oid, function.name));
    let administration =
        administration::FUNCTIONS.iter().map(|function| (function.oid, function.name));
    ours.chain(relations::support_functions()).chain(administration).collect()
});

/// Splits `"a".b` into its parts, folded. 42602 for what is no name.
pub fn split_name(name: &str) -> Result<Vec<String>> {
    let invalid = || ValueError::new(ValueErrorKind::InvalidName, "invalid name syntax");
    let mut parts = Vec::new();
    let mut rest = name.trim();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut part = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if chars.peek().is_some_and(|(_, c)| *c == '"') => {
                        chars.next();
                        part.push('"');
                    }
                    Some((position, '"')) => break position + 1,
                    Some((_, c)) => part.push(c),
                    None => return Err(invalid()),
                }
            };
            parts.push(part);
            rest = quoted[end..].trim_start();
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let part = rest[..end].trim();
            if part.is_empty() || part.contains(char::is_whitespace) || part.contains('"') {
                return Err(invalid());
            }
            parts.push(part.to_lowercase());
            rest = &rest[end..];
        }
        match rest.strip_prefix('.') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => return Ok(parts),
            None => return Err(invalid()),
        }
    }
}

/// What an unqualified or qualified relation name means in a session.
pub fn relation_by_name(session: &dyn SessionInfo, parts: &[String]) -> Result<Option<Oid>> {
    let catalog = session.catalog();
    let in_schema = |schema: &str, name: &str| -> Option<Oid> {
        if let Some(facts) = relations::facts::relation(schema, name) {
            return Some(facts.oid);
        }
        let schema = catalog.schema_by_name(schema)?;
        catalog.names.get(&(schema.oid, name.to_owned())).copied()
    };
    match parts {
        [name] => {
            let path = session.search_path();
            if !path.iter().any(|schema| schema == "pg_catalog")
                && let Some(oid) = in_schema("pg_catalog", name)
            {
                return Ok(Some(oid));
            }
            Ok(path.iter().find_map(|schema| in_schema(schema, name)))
        }
        [.., schema, name] => {
            if catalog.schema_by_name(schema).is_none() {
                return Err(ValueError::new(
                    ValueErrorKind::UndefinedSchema,
                    format!("schema \"{schema}\" does not exist"),
                ));
            }
            Ok(in_schema(schema, name))
        }
        [] => Ok(None),
    }
}

/// A relation's name as regclass prints it: qualified unless the search path finds it.
pub fn relation_name(session: &dyn SessionInfo, catalog: &Catalog, oid: Oid) -> Option<String> {
    let (schema, name) = match relations::facts::relation_by_oid(oid) {
        Some(facts) => (facts.schema.to_owned(), facts.name.to_owned()),
        None => {
            let (schema, name) = deparse::relation_parts(catalog, oid)?;
            (catalog.schemas.get(&schema)?.name.clone(), name)
        }
    };
    let visible =
        relation_by_name(session, std::slice::from_ref(&name)).ok().flatten() == Some(oid);
    Some(if visible {
        deparse::quote(&name)
    } else {
        format!("{}.{}", deparse::quote(&schema), deparse::quote(&name))
    })
}

impl Call<'_> {
    /// `text(regclass)` and its like; NULL for what is not there.
    pub(super) fn name_of_object(&self) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        let kind = self.signature.trim_start_matches("text(").trim_end_matches(')');
        Ok(maybe_text(match kind {
            "regclass" => relation_name(self.session, &catalog, oid),
            "regnamespace" => catalog.schemas.get(&oid).map(|schema| deparse::quote(&schema.name)),
            "regrole" => catalog.roles.get(&oid).map(|role| deparse::quote(&role.name)),
            "regproc" => FUNCTIONS.get(&oid.0).map(|name| deparse::quote(name)),
            _ => match SqlType::from_oid(oid.0) {
                Some(ty) => Some(value::text::type_name(TypeMod::plain(ty))),
                None => pseudo_type(oid).map(str::to_owned),
            },
        }))
    }

    /// The object of a name; an error if there is none and the caller wants one.
    pub(super) fn object_of_name(&self, kind: &str) -> Result<Option<u32>> {
        let name = self.text(0).unwrap_or_default();
        let optional = self.signature.starts_with("to_");
        if optional && let Ok(oid) = name.trim().parse() {
            return Ok(Some(oid));
        }
        let missing = |error: ValueErrorKind, message: String| {
            if optional { Ok(None) } else { Err(ValueError::new(error, message)) }
        };
        if kind == "regtype" {
            return match registry::type_by_name(name) {
                Some(ty) => Ok(Some(ty.oid())),
                None => missing(
                    ValueErrorKind::UndefinedObject,
                    format!("type \"{name}\" does not exist"),
                ),
            };
        }
        let parts = split_name(name)?;
        let last = parts.last().cloned().unwrap_or_default();
        let catalog = self.session.catalog();
        let shown = parts.join(".");
        let (found, error, message) = match kind {
            "regclass" => {
                let found = relation_by_name(self.session, &parts);
                let found = if optional { found.unwrap_or(None) } else { found? };
                let message = format!("relation \"{shown}\" does not exist");
                (found, ValueErrorKind::UndefinedTable, message)
            }
            "regnamespace" => (
                catalog.schema_by_name(&last).map(|schema| schema.oid),
                ValueErrorKind::UndefinedSchema,
                format!("schema \"{last}\" does not exist"),
            ),
            "regrole" => (
                catalog.role_by_name(&last).map(|role| role.oid),
                ValueErrorKind::UndefinedObject,
                format!("role \"{last}\" does not exist"),
            ),
            _ => {
                let mut found: Vec<u32> = FUNCTIONS
                    .iter()
                    .filter(|(_, name)| **name == last)
                    .map(|(oid, _)| *oid)
                    .collect();
                if found.len() > 1 && !optional {
                    return Err(ValueError::new(
                        ValueErrorKind::AmbiguousFunction,
                        format!("more than one function named \"{shown}\""),
                    ));
                }
                let found = if found.len() == 1 { found.pop().map(Oid) } else { None };
                (
                    found,
                    ValueErrorKind::UndefinedFunction,
                    format!("function \"{shown}\" does not exist"),
                )
            }
        };
        match found {
            Some(oid) => Ok(Some(oid.0)),
            None => missing(error, message),
        }
    }

    pub(super) fn table_is_visible(&self) -> Result<Datum> {
        let oid = self.oid(0).unwrap_or_default();
        let catalog = self.session.catalog();
        let name = match relations::facts::relation_by_oid(oid) {
            Some(facts) => facts.name.to_owned(),
            None => match deparse::relation_parts(&catalog, oid) {
                Some((_, name)) => name,
                None => return Ok(Datum::Null),
            },
        };
        Ok(Datum::Bool(relation_by_name(self.session, &[name])? == Some(oid)))
    }

    /// `pg_describe_object(class, object, column)`
    pub(super) fn describe_object(&self) -> Result<Datum> {
        let (object, column) = (self.oid(1).unwrap_or_default(), self.integer(2).unwrap_or(0));
        let catalog = self.session.catalog();
        Ok(match self.oid(0).unwrap_or_default() {
            class::SCHEMA => {
                maybe_text(catalog.schemas.get(&object).map(|s| format!("schema {}", s.name)))
            }
            class::ROLE => {
                maybe_text(catalog.roles.get(&object).map(|role| format!("role {}", role.name)))
            }
            class::RELATION => match relation_name(self.session, &catalog, object) {
                None => Datum::Null,
                Some(name) => {
                    let word = match catalog.relation_by_oid(object) {
                        Some(cortex_planner::catalog::Relation::View(_)) => "view",
                        Some(cortex_planner::catalog::Relation::Sequence(_)) => "sequence",
                        None if catalog.index_tables.contains_key(&object) => "index",
                        _ => "table",
                    };
                    let table = catalog.tables.get(&object);
                    let column = table.and_then(|table| {
                        table.descriptor.columns.get(usize::try_from(column).ok()?.checked_sub(1)?)
                    });
                    match column {
                        Some(column) => text(format!("column {} of {word} {name}", column.name)),
                        None => text(format!("{word} {name}")),
                    }
                }
            },
            _ => Datum::Null,
        })
    }
}

/// Types that are in pg_type but cannot be a column's.
fn pseudo_type(oid: Oid) -> Option<&'static str> {
    include_str!("../relations/facts/pg_type.tsv").lines().find_map(|line| {
        let mut fields = line.split('\t');
        let found: u32 = fields.next()?.parse().ok()?;
        (found == oid.0).then(|| fields.next())?
    })
}

/// What PostgreSQL says about its own objects.
pub fn builtin_description(object: Oid, wanted: Option<Oid>) -> Option<&'static str> {
    let functions = include_str!("../relations/facts/pg_proc_description.tsv").lines();
    if wanted.is_none_or(|class| class == class::PROC) {
        let mut functions = functions.filter_map(|line| line.split_once('\t'));
        let found = functions.find(|(oid, _)| oid.parse() == Ok(object.0));
        if let Some((_, description)) = found {
            return Some(description);
        }
        if let Some(function) = administration::by_oid(object) {
            return Some(function.description);
        }
    }
    include_str!("../relations/facts/pg_description.tsv").lines().find_map(|line| {
        let mut fields = line.splitn(4, '\t');
        let oid: u32 = fields.next()?.parse().ok()?;
        let class: u32 = fields.next()?.parse().ok()?;
        fields.next()?;
        let matches = oid == object.0 && wanted.is_none_or(|wanted| wanted.0 == class);
        if matches { fields.next() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_and_folded() {
        let parts = |name| split_name(name).expect("a name");
        assert_eq!(parts("Public.\"My \"\"T\""), ["public", "My \"T"]);
        assert_eq!(parts("\"a.b\""), ["a.b"]);
        assert!(split_name("a b").is_err() && split_name("").is_err() && split_name("a.").is_err());
    }
}
