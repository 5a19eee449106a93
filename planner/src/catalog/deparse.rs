//! Typed expressions and definitions as SQL text, the way Postgres prints them.

use std::{collections::HashMap, sync::LazyLock};

use cortex_functions::registry;
use cortex_shard_api::{
    Datum, Oid, ScalarExpr, SqlType, TypeMod,
    descriptor::{ForeignKeyDescriptor, ReferentialAction},
    value::{ValueSettings, text},
};

use super::{Catalog, Table, edit::PUBLIC};

/// Functions that stand behind operators, by signature, with the operator's name.
static OPERATORS: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let functions: HashMap<u32, String> = registry::functions()
        .into_iter()
        .map(|function| {
            let args: Vec<&str> = function
                .args
                .iter()
                .filter_map(|oid| SqlType::from_oid(*oid))
                .map(SqlType::catalog_name)
                .collect();
            (function.oid, format!("{}({})", function.name, args.join(",")))
        })
        .collect();
    registry::operators()
        .into_iter()
        .filter_map(|operator| Some((functions.get(&operator.function)?.clone(), operator.name)))
        .collect()
});

/// An identifier, quoted where it must be.
pub fn quote(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_keyword(name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Words that Postgres quotes when it prints them as names.
fn is_keyword(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "between",
        "bigint",
        "binary",
        "bit",
        "boolean",
        "both",
        "case",
        "cast",
        "char",
        "character",
        "check",
        "coalesce",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "dec",
        "decimal",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "exists",
        "extract",
        "false",
        "fetch",
        "float",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "greatest",
        "group",
        "grouping",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "inout",
        "int",
        "integer",
        "intersect",
        "interval",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "least",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "national",
        "natural",
        "nchar",
        "none",
        "normalize",
        "not",
        "notnull",
        "null",
        "nullif",
        "numeric",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "out",
        "outer",
        "overlaps",
        "overlay",
        "placing",
        "position",
        "precision",
        "primary",
        "real",
        "references",
        "returning",
        "right",
        "row",
        "select",
        "session_user",
        "setof",
        "similar",
        "smallint",
        "some",
        "substring",
        "symmetric",
        "table",
        "tablesample",
        "then",
        "time",
        "timestamp",
        "to",
        "trailing",
        "treat",
        "trim",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "values",
        "varchar",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
    ];
    WORDS.binary_search(&name).is_ok()
}

/// A string as a literal.
pub fn quote_literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') {
        format!("E'{}'", escaped.replace('\\', "\\\\"))
    } else {
        format!("'{escaped}'")
    }
}

/// Prints expressions over one table's columns.
pub struct Deparser<'a> {
    pub catalog: &'a Catalog,
    /// Names of the columns by position.
    pub columns: &'a [String],
    /// Fewer parentheses, as `pg_get_constraintdef(oid, true)` prints.
    pub pretty: bool,
}

impl Deparser<'_> {
    /// The whole expression: an implicit cast at the top is not shown.
    pub fn top(&self, expr: &ScalarExpr) -> String {
        match expr {
            ScalarExpr::Cast { arg, explicit: false, .. } => self.top(arg),
            _ => self.expr(expr),
        }
    }

    fn expr(&self, expr: &ScalarExpr) -> String {
        match expr {
            ScalarExpr::Literal { value, ty } => self.literal(value, *ty),
            ScalarExpr::Column { position, .. } => {
                self.columns.get(*position).map_or_else(String::new, |name| quote(name))
            }
            ScalarExpr::Parameter { index, .. } => format!("${}", index + 1),
            ScalarExpr::Call { function, args, .. } => self.call(function, args),
            ScalarExpr::Cast { arg, to, .. } => self.cast(arg, *to),
            ScalarExpr::And(args) => self.junction(args, " AND "),
            ScalarExpr::Or(args) => self.junction(args, " OR "),
            ScalarExpr::Not(arg) => match &**arg {
                ScalarExpr::IsNull(arg) => self.wrap(format!("{} IS NOT NULL", self.operand(arg))),
                arg => self.wrap(format!("NOT {}", self.operand(arg))),
            },
            ScalarExpr::IsNull(arg) => self.wrap(format!("{} IS NULL", self.operand(arg))),
            ScalarExpr::Case { branches, otherwise, .. } => {
                let mut out = "CASE".to_owned();
                for (condition, value) in branches {
                    out += &format!(" WHEN {} THEN {}", self.expr(condition), self.expr(value));
                }
                let otherwise = otherwise.as_ref().map_or("NULL".to_owned(), |e| self.expr(e));
                out + &format!(" ELSE {otherwise} END")
            }
            ScalarExpr::Coalesce { args, .. } => format!("COALESCE({})", self.list(args)),
            ScalarExpr::IsDistinct { left, right, negated, .. } => {
                let not = if *negated { "NOT " } else { "" };
                self.wrap(format!(
                    "{} IS {not}DISTINCT FROM {}",
                    self.operand(left),
                    self.operand(right)
                ))
            }
            ScalarExpr::Array { elements, .. } => format!("ARRAY[{}]", self.list(elements)),
        }
    }

    fn wrap(&self, text: String) -> String {
        if self.pretty { text } else { format!("({text})") }
    }

    /// An operand of an operator, in parentheses where it is not simple.
    fn operand(&self, expr: &ScalarExpr) -> String {
        let text = self.expr(expr);
        let compound = match expr {
            ScalarExpr::Call { function, .. } => operator_of(function).is_some(),
            ScalarExpr::And(_)
            | ScalarExpr::Or(_)
            | ScalarExpr::Not(_)
            | ScalarExpr::IsNull(_)
            | ScalarExpr::IsDistinct { .. } => true,
            _ => false,
        };
        if self.pretty && compound { format!("({text})") } else { text }
    }

    fn list(&self, args: &[ScalarExpr]) -> String {
        args.iter().map(|arg| self.expr(arg)).collect::<Vec<_>>().join(", ")
    }

    fn junction(&self, args: &[ScalarExpr], word: &str) -> String {
        let parts: Vec<String> = args
            .iter()
            .map(|arg| match arg {
                ScalarExpr::And(_) | ScalarExpr::Or(_) | ScalarExpr::Not(_) => self.operand(arg),
                arg => self.expr(arg),
            })
            .collect();
        self.wrap(parts.join(word))
    }

    fn call(&self, function: &str, args: &[ScalarExpr]) -> String {
        if let Some(array) = function.strip_prefix("any:").or_else(|| function.strip_prefix("all:"))
            && let (Some(operator), [left, right]) = (operator_of(array), args)
        {
            let word = if function.starts_with("any:") { "ANY" } else { "ALL" };
            return self.wrap(format!(
                "{} {operator} {word} ({})",
                self.operand(left),
                self.expr(right)
            ));
        }
        match (operator_of(function), args) {
            (Some(operator), [left, right]) => {
                self.wrap(format!("{} {operator} {}", self.operand(left), self.operand(right)))
            }
            (Some(operator), [arg]) => self.wrap(format!("{operator} {}", self.operand(arg))),
            _ => {
                let name = function.split_once('(').map_or(function, |(name, _)| name);
                match (name, args.is_empty()) {
                    ("current_timestamp", true) => "CURRENT_TIMESTAMP".to_owned(),
                    ("current_date", true) => "CURRENT_DATE".to_owned(),
                    ("current_user", true) => "CURRENT_USER".to_owned(),
                    ("localtimestamp", true) => "LOCALTIMESTAMP".to_owned(),
                    _ => format!("{}({})", quote_function(name), self.list(args)),
                }
            }
        }
    }

    fn cast(&self, arg: &ScalarExpr, to: TypeMod) -> String {
        let name = text::type_name(to);
        let inner = self.expr(arg);
        let simple = match arg {
            ScalarExpr::Literal { value: Datum::Text(_), .. } => true,
            ScalarExpr::Column { .. } | ScalarExpr::Literal { .. } => self.pretty,
            ScalarExpr::Call { function, .. } => self.pretty && operator_of(function).is_none(),
            _ => false,
        };
        if simple || inner.starts_with('(') && !self.pretty {
            format!("{inner}::{name}")
        } else {
            format!("({inner})::{name}")
        }
    }

    fn literal(&self, value: &Datum, ty: TypeMod) -> String {
        let name = text::type_name(ty);
        let mut printed = String::new();
        match value {
            Datum::Null => return format!("NULL::{name}"),
            Datum::Bool(value) => return value.to_string(),
            Datum::Oid(oid) if ty.ty == SqlType::Regclass => {
                return format!(
                    "{}::regclass",
                    quote_literal(&relation_name(self.catalog, Oid(*oid)))
                );
            }
            _ => text::format(value, ty.ty, &ValueSettings::default(), &mut printed),
        }
        match ty.ty {
            SqlType::Int4 if !printed.starts_with('-') => printed,
            SqlType::Numeric
                if ty.typmod < 0 && printed.contains('.') && !printed.starts_with('-') =>
            {
                printed
            }
            SqlType::Numeric if printed.chars().all(|c| c.is_ascii_digit() || c == '.') => {
                format!("({printed})::{name}")
            }
            _ => format!("{}::{name}", quote_literal(&printed)),
        }
    }
}

fn operator_of(function: &str) -> Option<&'static str> {
    OPERATORS.get(function).copied()
}

/// A function's name as it is called.
fn quote_function(name: &str) -> String {
    if is_keyword(name) && !matches!(name, "left" | "right" | "greatest" | "least" | "char") {
        format!("\"{name}\"")
    } else {
        name.to_owned()
    }
}

/// A user's relation's name, qualified unless it is in `public`; its OID as text if there is none.
pub fn relation_name(catalog: &Catalog, oid: Oid) -> String {
    match relation_parts(catalog, oid) {
        Some((schema, name)) if schema == PUBLIC => quote(&name),
        Some((schema, name)) => match catalog.schemas.get(&schema) {
            Some(schema) => format!("{}.{}", quote(&schema.name), quote(&name)),
            None => quote(&name),
        },
        None => oid.to_string(),
    }
}

/// Schema and name of a user's relation or index.
pub fn relation_parts(catalog: &Catalog, oid: Oid) -> Option<(Oid, String)> {
    if let Some(table) = catalog.tables.get(&oid) {
        return Some((table.schema, table.descriptor.name.clone()));
    }
    if let Some(view) = catalog.views.get(&oid) {
        return Some((view.schema, view.name.clone()));
    }
    if let Some(sequence) = catalog.sequences.get(&oid) {
        return Some((sequence.schema, sequence.name.clone()));
    }
    let (table, _) = catalog.index(oid)?;
    let name = table.relation_names().into_iter().find(|(index, _)| *index == oid)?.1;
    Some((table.schema, name))
}

/// Column names by position.
pub fn column_names(table: &Table) -> Vec<String> {
    table.descriptor.columns.iter().map(|column| column.name.clone()).collect()
}

/// A column's default as `pg_get_expr` prints it.
pub fn column_default(catalog: &Catalog, table: &Table, position: usize) -> Option<String> {
    let default = table.columns.get(position)?.default.as_ref()?;
    Some(Deparser { catalog, columns: &[], pretty: false }.top(&default.expr))
}

/// What `pg_get_indexdef` prints; with `column` (from 1) that column alone.
pub fn index_definition(
    catalog: &Catalog,
    table: &Table,
    index: Option<usize>,
    column: usize,
) -> String {
    let descriptor = &table.descriptor;
    let (name, unique, columns) = match index {
        Some(index) => {
            let index = &descriptor.indexes[index];
            let columns: Vec<String> = index
                .columns
                .iter()
                .map(|column| {
                    let mut out = quote(&descriptor.columns[column.column].name);
                    match (column.descending, column.nulls_first) {
                        (true, true) => out += " DESC",
                        (true, false) => out += " DESC NULLS LAST",
                        (false, true) => out += " NULLS FIRST",
                        (false, false) => {}
                    }
                    out
                })
                .collect();
            (index.name.as_str(), index.unique, columns)
        }
        None => {
            let columns = descriptor
                .primary_key
                .iter()
                .map(|column| quote(&descriptor.columns[*column].name))
                .collect();
            (descriptor.primary_key_name.as_deref().unwrap_or_default(), true, columns)
        }
    };
    if column > 0 {
        let only = columns.get(column - 1).cloned().unwrap_or_default();
        return only.split(' ').next().unwrap_or_default().to_owned();
    }
    let schema = catalog.schemas.get(&table.schema).map_or("", |schema| schema.name.as_str());
    format!(
        "CREATE {}INDEX {} ON {}.{} USING btree ({})",
        if unique { "UNIQUE " } else { "" },
        quote(name),
        quote(schema),
        quote(&descriptor.name),
        columns.join(", ")
    )
}

/// What `pg_get_constraintdef` prints.
pub fn constraint_definition(catalog: &Catalog, oid: Oid, pretty: bool) -> Option<String> {
    let table = catalog.tables.values().find(|table| table.constraint_oids().contains(&oid))?;
    let names = column_names(table);
    let list = |columns: &mut dyn Iterator<Item = usize>| -> String {
        columns.map(|column| quote(&names[column])).collect::<Vec<_>>().join(", ")
    };
    let descriptor = &table.descriptor;
    if table.primary_key_oids.is_some_and(|(constraint, _)| constraint == oid) {
        let columns = list(&mut descriptor.primary_key.iter().copied());
        return Some(format!("PRIMARY KEY ({columns})"));
    }
    if let Some((_, _, index)) = table.unique_constraints.iter().find(|(c, _, _)| *c == oid) {
        let columns = &descriptor.indexes.get(*index)?.columns;
        return Some(format!("UNIQUE ({})", list(&mut columns.iter().map(|c| c.column))));
    }
    if let Some(check) = descriptor.checks.iter().find(|check| check.oid == oid) {
        let expr = Deparser { catalog, columns: &names, pretty }.top(&check.expr);
        return Some(format!("CHECK ({expr})"));
    }
    let key = descriptor.foreign_keys.iter().find(|key| key.oid == oid)?;
    Some(foreign_key_definition(catalog, key, list(&mut key.columns.iter().copied())))
}

fn foreign_key_definition(
    catalog: &Catalog,
    key: &ForeignKeyDescriptor,
    columns: String,
) -> String {
    let parent_columns: Vec<String> = catalog
        .tables
        .get(&key.parent)
        .map(|parent| {
            let name = |column: &usize| quote(&parent.descriptor.columns[*column].name);
            key.parent_columns.iter().map(name).collect()
        })
        .unwrap_or_default();
    let mut out = format!(
        "FOREIGN KEY ({columns}) REFERENCES {}({})",
        relation_name(catalog, key.parent),
        parent_columns.join(", ")
    );
    for (event, action) in [("UPDATE", key.on_update), ("DELETE", key.on_delete)] {
        if let Some(action) = action_words(action) {
            out += &format!(" ON {event} {action}");
        }
    }
    out
}

/// `None` for NO ACTION, the default.
pub fn action_words(action: ReferentialAction) -> Option<&'static str> {
    match action {
        ReferentialAction::NoAction => None,
        ReferentialAction::Restrict => Some("RESTRICT"),
        ReferentialAction::Cascade => Some("CASCADE"),
        ReferentialAction::SetNull => Some("SET NULL"),
        ReferentialAction::SetDefault => Some("SET DEFAULT"),
    }
}
