//! information_schema, as far as there is something to say.

use cortex_planner::catalog::{Catalog, Identity, Table, edit::DATABASE_NAME};
use cortex_shard_api::{Datum, Oid, SqlType, TypeMod, ValueError, descriptor::ReferentialAction};

use super::{
    Fill, Source,
    classes::live_columns,
    constraints::{Constraint, constraints, parent_index},
    facts::RELATIONS as FACTS,
    rows::{Rows, maybe_text, text, yes_no},
    views::schema_name,
};
use cortex_planner::catalog::deparse;

pub const RELATIONS: &[(&str, Fill)] = &[
    ("information_schema_catalog_name", |_, rows| {
        rows.push([("catalog_name", text(DATABASE_NAME))]);
        Ok(())
    }),
    ("schemata", schemata),
    ("tables", tables),
    ("columns", columns),
    ("views", views),
    ("sequences", sequences),
    ("table_constraints", table_constraints),
    ("key_column_usage", key_column_usage),
    ("constraint_column_usage", constraint_column_usage),
    ("constraint_table_usage", constraint_table_usage),
    ("referential_constraints", referential_constraints),
    ("check_constraints", check_constraints),
    ("character_sets", character_sets),
    ("enabled_roles", enabled_roles),
    ("table_privileges", |source, rows| privileges(source, rows, false)),
    ("role_table_grants", |source, rows| privileges(source, rows, true)),
    ("view_table_usage", view_table_usage),
];

fn database() -> Datum {
    text(DATABASE_NAME)
}

fn schemata(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for schema in source.catalog.schemas.values() {
        let owner = source.catalog.roles.get(&schema.owner);
        rows.push([
            ("catalog_name", database()),
            ("schema_name", text(&schema.name)),
            ("schema_owner", maybe_text(owner.map(|role| &role.name))),
        ]);
    }
    Ok(())
}

fn tables(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let mut push = |schema: Datum, name: &str, kind: &str, insertable: bool| {
        rows.push([
            ("table_catalog", database()),
            ("table_schema", schema),
            ("table_name", text(name)),
            ("table_type", text(kind)),
            ("is_insertable_into", yes_no(insertable)),
            ("is_typed", yes_no(false)),
        ]);
    };
    for table in source.catalog.tables.values() {
        let schema = schema_name(source.catalog, table.schema);
        push(schema, &table.descriptor.name, "BASE TABLE", true);
    }
    for view in source.catalog.views.values() {
        push(schema_name(source.catalog, view.schema), &view.name, "VIEW", false);
    }
    for facts in FACTS.iter() {
        let kind = if facts.kind == 'r' { "BASE TABLE" } else { "VIEW" };
        push(text(facts.schema), facts.name, kind, false);
    }
    Ok(())
}

/// What information_schema.columns derives from a type.
struct TypeColumns {
    data_type: String,
    udt_name: &'static str,
    length: Datum,
    octets: Datum,
    precision: Datum,
    radix: Datum,
    scale: Datum,
    datetime: Datum,
}

const OCTETS_MAX: i32 = 1_073_741_824;

impl TypeColumns {
    fn of(ty: TypeMod) -> TypeColumns {
        let mut columns = TypeColumns {
            data_type: match ty.ty {
                SqlType::Array(_) => "ARRAY".to_owned(),
                ty => ty.sql_name().to_owned(),
            },
            udt_name: ty.ty.catalog_name(),
            length: Datum::Null,
            octets: Datum::Null,
            precision: Datum::Null,
            radix: Datum::Null,
            scale: Datum::Null,
            datetime: Datum::Null,
        };
        let number = |precision: i32, radix: i32| (Datum::Int4(precision), Datum::Int4(radix));
        match ty.ty {
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => {
                let bits = i32::from(ty.ty.wire_len()) * 8;
                (columns.precision, columns.radix) = number(bits, 2);
                columns.scale = Datum::Int4(0);
            }
            SqlType::Float4 => (columns.precision, columns.radix) = number(24, 2),
            SqlType::Float8 => (columns.precision, columns.radix) = number(53, 2),
            SqlType::Numeric => {
                columns.radix = Datum::Int4(10);
                if let Some((precision, scale)) = ty.numeric_limits() {
                    columns.precision = Datum::Int4(precision.into());
                    columns.scale = Datum::Int4(scale.into());
                }
            }
            SqlType::Text => columns.octets = Datum::Int4(OCTETS_MAX),
            SqlType::Varchar | SqlType::Bpchar => {
                columns.octets = Datum::Int4(OCTETS_MAX);
                if let Some(limit) = ty.char_limit() {
                    columns.length = Datum::Int4(limit as i32);
                    columns.octets = Datum::Int4((limit as i32).saturating_mul(4));
                }
            }
            SqlType::Date => columns.datetime = Datum::Int4(0),
            SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
                columns.datetime = Datum::Int4(if ty.typmod >= 0 { ty.typmod } else { 6 });
            }
            _ => {}
        }
        columns
    }
}

fn columns(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for (table, position) in live_columns(source.catalog) {
        table_column(source.catalog, table, position, rows);
    }
    for view in source.catalog.views.values() {
        let schema = schema_name(source.catalog, view.schema);
        for (position, (name, ty)) in view.columns.iter().enumerate() {
            plain_column(rows, schema.clone(), &view.name, position, name, *ty, false);
        }
    }
    for facts in FACTS.iter() {
        for (position, column) in facts.columns.iter().enumerate() {
            let schema = text(facts.schema);
            let not_null = column.not_null;
            plain_column(rows, schema, facts.name, position, column.name, column.ty, not_null);
        }
    }
    Ok(())
}

fn plain_column(
    rows: &mut Rows,
    schema: Datum,
    table: &str,
    position: usize,
    name: &str,
    ty: TypeMod,
    not_null: bool,
) {
    let types = TypeColumns::of(ty);
    rows.push([
        ("table_catalog", database()),
        ("table_schema", schema),
        ("table_name", text(table)),
        ("column_name", text(name)),
        ("ordinal_position", Datum::Int4(position as i32 + 1)),
        ("is_nullable", yes_no(!not_null)),
        ("data_type", text(types.data_type)),
        ("character_maximum_length", types.length),
        ("character_octet_length", types.octets),
        ("numeric_precision", types.precision),
        ("numeric_precision_radix", types.radix),
        ("numeric_scale", types.scale),
        ("datetime_precision", types.datetime),
        ("udt_catalog", database()),
        ("udt_schema", text("pg_catalog")),
        ("udt_name", text(types.udt_name)),
        ("dtd_identifier", text((position + 1).to_string())),
        ("is_self_referencing", yes_no(false)),
        ("is_identity", yes_no(false)),
        ("identity_cycle", yes_no(false)),
        ("is_generated", text("NEVER")),
        ("is_updatable", yes_no(false)),
    ]);
}

fn table_column(catalog: &Catalog, table: &Table, position: usize, rows: &mut Rows) {
    let descriptor = &table.descriptor;
    let column = &descriptor.columns[position];
    let identity = table.columns.get(position).and_then(|extra| extra.identity);
    let sequence = identity.and_then(|_| {
        let owner = Some((descriptor.oid, position));
        catalog.sequences.values().find(|sequence| sequence.owned_by == owner)
    });
    let number = |value: Option<i64>| maybe_text(value.map(|value| value.to_string()));
    let spec = sequence.map(|sequence| &sequence.spec);
    let default = match identity {
        Some(_) => None,
        None => deparse::column_default(catalog, table, position),
    };
    let types = TypeColumns::of(column.ty);
    rows.push([
        ("table_catalog", database()),
        ("table_schema", schema_name(catalog, table.schema)),
        ("table_name", text(&descriptor.name)),
        ("column_name", text(&column.name)),
        ("ordinal_position", Datum::Int4(position as i32 + 1)),
        ("column_default", maybe_text(default)),
        ("is_nullable", yes_no(!column.not_null)),
        ("data_type", text(types.data_type)),
        ("character_maximum_length", types.length),
        ("character_octet_length", types.octets),
        ("numeric_precision", types.precision),
        ("numeric_precision_radix", types.radix),
        ("numeric_scale", types.scale),
        ("datetime_precision", types.datetime),
        ("udt_catalog", database()),
        ("udt_schema", text("pg_catalog")),
        ("udt_name", text(types.udt_name)),
        ("dtd_identifier", text((position + 1).to_string())),
        ("is_self_referencing", yes_no(false)),
        ("is_identity", yes_no(identity.is_some())),
        (
            "identity_generation",
            maybe_text(identity.map(|identity| match identity {
                Identity::Always => "ALWAYS",
                Identity::ByDefault => "BY DEFAULT",
            })),
        ),
        ("identity_start", number(spec.map(|spec| spec.start))),
        ("identity_increment", number(spec.map(|spec| spec.increment))),
        ("identity_maximum", number(spec.map(|spec| spec.max))),
        ("identity_minimum", number(spec.map(|spec| spec.min))),
        ("identity_cycle", yes_no(spec.is_some_and(|spec| spec.cycle))),
        ("is_generated", text("NEVER")),
        ("is_updatable", yes_no(true)),
    ]);
}

fn views(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for view in source.catalog.views.values() {
        rows.push([
            ("table_catalog", database()),
            ("table_schema", schema_name(source.catalog, view.schema)),
            ("table_name", text(&view.name)),
            ("view_definition", text(format!("{};", view.sql))),
            ("check_option", text("NONE")),
            ("is_updatable", yes_no(false)),
            ("is_insertable_into", yes_no(false)),
            ("is_trigger_updatable", yes_no(false)),
            ("is_trigger_deletable", yes_no(false)),
            ("is_trigger_insertable_into", yes_no(false)),
        ]);
    }
    Ok(())
}

fn sequences(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for sequence in source.catalog.sequences.values() {
        let identity = sequence.owned_by.is_some_and(|(table, column)| {
            let table = source.catalog.tables.get(&table);
            table.is_some_and(|table| {
                table.columns.get(column).is_some_and(|c| c.identity.is_some())
            })
        });
        // The standard counts sequences of identity columns to the column.
        if identity {
            continue;
        }
        rows.push([
            ("sequence_catalog", database()),
            ("sequence_schema", schema_name(source.catalog, sequence.schema)),
            ("sequence_name", text(&sequence.name)),
            ("data_type", text(sequence.ty.sql_name())),
            ("numeric_precision", Datum::Int4(i32::from(sequence.ty.wire_len()) * 8)),
            ("numeric_precision_radix", Datum::Int4(2)),
            ("numeric_scale", Datum::Int4(0)),
            ("start_value", text(sequence.spec.start.to_string())),
            ("minimum_value", text(sequence.spec.min.to_string())),
            ("maximum_value", text(sequence.spec.max.to_string())),
            ("increment", text(sequence.spec.increment.to_string())),
            ("cycle_option", yes_no(sequence.spec.cycle)),
        ]);
    }
    Ok(())
}

fn each_constraint(catalog: &Catalog, mut visit: impl FnMut(&Table, &Constraint<'_>)) {
    for table in catalog.tables.values() {
        for constraint in constraints(catalog, table) {
            visit(table, &constraint);
        }
    }
}

/// Postgres's name for the NOT NULL of a column, which the standard counts to the checks.
fn not_null_name(table: &Table, position: usize) -> String {
    format!("{}_{}_{}_not_null", table.schema, table.descriptor.oid, position + 1)
}

fn table_constraints(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let mut push = |table: &Table, name: &str, kind: &str| {
        rows.push([
            ("constraint_catalog", database()),
            ("constraint_schema", schema_name(source.catalog, table.schema)),
            ("constraint_name", text(name)),
            ("table_catalog", database()),
            ("table_schema", schema_name(source.catalog, table.schema)),
            ("table_name", text(&table.descriptor.name)),
            ("constraint_type", text(kind)),
            ("is_deferrable", yes_no(false)),
            ("initially_deferred", yes_no(false)),
            ("enforced", yes_no(true)),
            ("nulls_distinct", if kind == "UNIQUE" { yes_no(true) } else { Datum::Null }),
        ]);
    };
    each_constraint(source.catalog, |table, constraint| {
        let kind = match constraint.kind {
            'p' => "PRIMARY KEY",
            'u' => "UNIQUE",
            'f' => "FOREIGN KEY",
            _ => "CHECK",
        };
        push(table, constraint.name, kind);
    });
    for (table, position) in live_columns(source.catalog) {
        if table.descriptor.columns[position].not_null {
            push(table, &not_null_name(table, position), "CHECK");
        }
    }
    Ok(())
}

fn key_column_usage(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    each_constraint(source.catalog, |table, constraint| {
        if constraint.kind == 'c' {
            return;
        }
        let referenced = constraint.foreign_key.and_then(|key| {
            let parent = source.catalog.tables.get(&key.parent)?;
            Some((key, key_columns_of(parent, parent_index(source.catalog, key)?)))
        });
        for (place, column) in constraint.columns.iter().enumerate() {
            let in_unique = referenced.as_ref().and_then(|(key, unique)| {
                unique.iter().position(|other| Some(other) == key.parent_columns.get(place))
            });
            rows.push([
                ("constraint_catalog", database()),
                ("constraint_schema", schema_name(source.catalog, table.schema)),
                ("constraint_name", text(constraint.name)),
                ("table_catalog", database()),
                ("table_schema", schema_name(source.catalog, table.schema)),
                ("table_name", text(&table.descriptor.name)),
                ("column_name", text(&table.descriptor.columns[*column].name)),
                ("ordinal_position", Datum::Int4(place as i32 + 1)),
                (
                    "position_in_unique_constraint",
                    in_unique.map_or(Datum::Null, |place| Datum::Int4(place as i32 + 1)),
                ),
            ]);
        }
    });
    Ok(())
}

/// Columns of a key's index in order.
fn key_columns_of(table: &Table, index: Oid) -> Vec<usize> {
    match table.descriptor.indexes.iter().find(|other| other.oid == index) {
        Some(index) => index.columns.iter().map(|column| column.column).collect(),
        None => table.descriptor.primary_key.clone(),
    }
}

/// The columns a constraint uses: those of the parent for a foreign key.
fn constraint_column_usage(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    each_constraint(source.catalog, |table, constraint| {
        let parent = constraint
            .foreign_key
            .and_then(|key| Some((source.catalog.tables.get(&key.parent)?, &key.parent_columns)));
        let (used, columns): (&Table, &Vec<usize>) = match parent {
            Some((parent, columns)) => (parent, columns),
            None => (table, &constraint.columns),
        };
        for column in columns {
            rows.push([
                ("table_catalog", database()),
                ("table_schema", schema_name(source.catalog, used.schema)),
                ("table_name", text(&used.descriptor.name)),
                ("column_name", text(&used.descriptor.columns[*column].name)),
                ("constraint_catalog", database()),
                ("constraint_schema", schema_name(source.catalog, table.schema)),
                ("constraint_name", text(constraint.name)),
            ]);
        }
    });
    Ok(())
}

fn constraint_table_usage(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    each_constraint(source.catalog, |table, constraint| {
        if constraint.kind == 'c' {
            return;
        }
        let parent = constraint.foreign_key.and_then(|key| source.catalog.tables.get(&key.parent));
        let used = parent.map_or(table, |parent| &**parent);
        rows.push([
            ("table_catalog", database()),
            ("table_schema", schema_name(source.catalog, used.schema)),
            ("table_name", text(&used.descriptor.name)),
            ("constraint_catalog", database()),
            ("constraint_schema", schema_name(source.catalog, table.schema)),
            ("constraint_name", text(constraint.name)),
        ]);
    });
    Ok(())
}

fn referential_constraints(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let rule =
        |action: ReferentialAction| text(deparse::action_words(action).unwrap_or("NO ACTION"));
    each_constraint(source.catalog, |table, constraint| {
        let Some(key) = constraint.foreign_key else { return };
        let Some(parent) = source.catalog.tables.get(&key.parent) else { return };
        let unique = constraints(source.catalog, parent)
            .into_iter()
            .find(|other| other.kind != 'f' && other.index == constraint.index)
            .map(|other| other.name.to_owned());
        rows.push([
            ("constraint_catalog", database()),
            ("constraint_schema", schema_name(source.catalog, table.schema)),
            ("constraint_name", text(constraint.name)),
            ("unique_constraint_catalog", database()),
            ("unique_constraint_schema", schema_name(source.catalog, parent.schema)),
            ("unique_constraint_name", maybe_text(unique)),
            ("match_option", text("NONE")),
            ("update_rule", rule(key.on_update)),
            ("delete_rule", rule(key.on_delete)),
        ]);
    });
    Ok(())
}

fn check_constraints(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    let mut push = |table: &Table, name: &str, clause: String| {
        rows.push([
            ("constraint_catalog", database()),
            ("constraint_schema", schema_name(source.catalog, table.schema)),
            ("constraint_name", text(name)),
            ("check_clause", text(clause)),
        ]);
    };
    each_constraint(source.catalog, |table, constraint| {
        let check = constraint.check.and_then(|position| table.descriptor.checks.get(position));
        if let Some(check) = check {
            let columns = deparse::column_names(table);
            let deparser =
                deparse::Deparser { catalog: source.catalog, columns: &columns, pretty: false };
            push(table, &check.name, format!("({})", deparser.top(&check.expr)));
        }
    });
    for (table, position) in live_columns(source.catalog) {
        let column = &table.descriptor.columns[position];
        if column.not_null {
            push(table, &not_null_name(table, position), format!("{} IS NOT NULL", column.name));
        }
    }
    Ok(())
}

fn character_sets(_: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    rows.push([
        ("character_set_name", text("UTF8")),
        ("character_repertoire", text("UCS")),
        ("form_of_use", text("UTF8")),
        ("default_collate_catalog", database()),
    ]);
    Ok(())
}

fn enabled_roles(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for role in source.catalog.roles.values() {
        rows.push([("role_name", text(&role.name))]);
    }
    Ok(())
}

/// What the owner may do with each table. `role_table_grants` has the same columns.
fn privileges(source: &Source<'_>, rows: &mut Rows, _grants: bool) -> Result<(), ValueError> {
    const ALL: &[&str] =
        &["INSERT", "SELECT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"];
    for table in source.catalog.tables.values() {
        let owner = maybe_text(source.catalog.roles.get(&table.owner).map(|role| &role.name));
        for privilege in ALL {
            rows.push([
                ("grantor", owner.clone()),
                ("grantee", owner.clone()),
                ("table_catalog", database()),
                ("table_schema", schema_name(source.catalog, table.schema)),
                ("table_name", text(&table.descriptor.name)),
                ("privilege_type", text(privilege)),
                ("is_grantable", yes_no(true)),
                ("with_hierarchy", yes_no(*privilege == "SELECT")),
            ]);
        }
    }
    Ok(())
}

fn view_table_usage(source: &Source<'_>, rows: &mut Rows) -> Result<(), ValueError> {
    for view in source.catalog.views.values() {
        for oid in &view.depends_on {
            let Some((schema, name)) = deparse::relation_parts(source.catalog, *oid) else {
                continue;
            };
            rows.push([
                ("view_catalog", database()),
                ("view_schema", schema_name(source.catalog, view.schema)),
                ("view_name", text(&view.name)),
                ("table_catalog", database()),
                ("table_schema", schema_name(source.catalog, schema)),
                ("table_name", text(name)),
            ]);
        }
    }
    Ok(())
}
