//! Set-returning functions: each yields rows of one or more columns.

use cortex_shard_api::{Datum, SqlType, ValueError, ValueErrorKind, client::Row, value::Numeric};

use super::{
    Call, Result, SET_ROWS_MAX, SetKernel, array, compare::compare, datetime, error, int, int4,
    interval, invalid_parameter, json, make_text, micros, numeric, regex, strings, text,
};

pub(super) fn find(name: &str) -> Option<SetKernel> {
    Some(match name {
        "generate_series" => generate_series,
        "generate_subscripts" => generate_subscripts,
        // No table is a partition: psql asks this of every table it describes.
        "pg_partition_ancestors" => |_, _| Ok(Vec::new()),
        "unnest" => |_, args| Ok(column(array(&args[0])?.elements.clone())),
        "regexp_split_to_table" => |_, args| {
            let flags = args.get(2).map_or(Ok(""), text)?;
            let pieces = regex::split(text(&args[0])?, text(&args[1])?, flags)?;
            Ok(column(pieces.into_iter().map(make_text).collect()))
        },
        "regexp_matches" => |_, args| Ok(column(regex::all_matches(args)?)),
        "string_to_table" => |_, args| {
            if matches!(args[0], Datum::Null) {
                return Ok(Vec::new());
            }
            Ok(column(strings::split_fields(args)?))
        },
        "json_array_elements" | "jsonb_array_elements" => |call, args| {
            Ok(column(
                elements(&args[0])?
                    .into_iter()
                    .map(|slice| document(slice, call.args[0]))
                    .collect(),
            ))
        },
        "json_array_elements_text" | "jsonb_array_elements_text" => |_, args| {
            let elements = elements(&args[0])?;
            Ok(column(elements.into_iter().map(|slice| json::slice_text(Some(slice))).collect()))
        },
        "json_object_keys" | "jsonb_object_keys" => |call, args| {
            let members = json::members(text(&args[0])?);
            let Some(members) = members else {
                let kind = if text(&args[0])?.trim_start().starts_with('[') {
                    "an array"
                } else {
                    "a scalar"
                };
                let name = format!("{}_object_keys", call.args[0].catalog_name());
                return invalid_parameter(format!("cannot call {name} on {kind}"));
            };
            Ok(column(members.into_iter().map(|(key, _)| make_text(key)).collect()))
        },
        "json_each" | "jsonb_each" => |call, args| each(call, args, document),
        "json_each_text" | "jsonb_each_text" => {
            |call, args| each(call, args, |slice, _| json::slice_text(Some(slice)))
        }
        _ => return None,
    })
}

fn column(values: Vec<Datum>) -> Vec<Row> {
    values.into_iter().map(|value| vec![value]).collect()
}

fn document(slice: &str, ty: SqlType) -> Datum {
    if ty == SqlType::Jsonb { Datum::Jsonb(slice.into()) } else { Datum::Json(slice.into()) }
}

fn elements(value: &Datum) -> Result<Vec<&str>> {
    let document = text(value)?;
    match json::elements(document) {
        Some(elements) => Ok(elements),
        None if document.trim_start().starts_with('{') => {
            invalid_parameter("cannot extract elements from an object")
        }
        None => invalid_parameter("cannot extract elements from a scalar"),
    }
}

fn each(call: &Call<'_>, args: &[Datum], value: fn(&str, SqlType) -> Datum) -> Result<Vec<Row>> {
    match json::members(text(&args[0])?) {
        Some(members) => Ok(members
            .into_iter()
            .map(|(key, slice)| vec![make_text(key), value(slice, call.args[0])])
            .collect()),
        None if call.args[0] == SqlType::Jsonb => {
            invalid_parameter("cannot call jsonb_each on a non-object")
        }
        None => invalid_parameter("cannot deconstruct a scalar"),
    }
}

fn zero_step<T>() -> Result<T> {
    invalid_parameter("step size cannot equal zero")
}

fn bounded(rows: &[Row]) -> Result<()> {
    if rows.len() >= SET_ROWS_MAX {
        return Err(ValueError::new(
            ValueErrorKind::InvalidParameter,
            format!("a function may not yield more than {SET_ROWS_MAX} rows"),
        ));
    }
    Ok(())
}

fn generate_series(call: &Call<'_>, args: &[Datum]) -> Result<Vec<Row>> {
    match call.args[0] {
        SqlType::Numeric => numeric_series(args),
        SqlType::Timestamp | SqlType::Timestamptz => time_series(call, args),
        _ => integer_series(call, args),
    }
}

fn integer_series(call: &Call<'_>, args: &[Datum]) -> Result<Vec<Row>> {
    let (start, stop) = (i128::from(int(&args[0])?), i128::from(int(&args[1])?));
    let step = i128::from(args.get(2).map_or(Ok(1), int)?);
    if step == 0 {
        return zero_step();
    }
    let count = ((stop - start) / step + 1).max(0);
    if (stop - start).signum() * step.signum() < 0 {
        return Ok(Vec::new());
    }
    if count > SET_ROWS_MAX as i128 {
        return invalid_parameter(format!(
            "a function may not yield more than {SET_ROWS_MAX} rows"
        ));
    }
    (0..count)
        .map(|n| Ok(vec![super::make_int((start + n * step) as i64, call.returns)?]))
        .collect()
}

fn numeric_series(args: &[Datum]) -> Result<Vec<Row>> {
    let one = Numeric::from_i64(1);
    let (start, stop) = (numeric(&args[0])?, numeric(&args[1])?);
    let step = args.get(2).map_or(Ok(&one), numeric)?;
    for (value, what) in [(start, "start"), (stop, "stop"), (step, "step size")] {
        if !value.is_finite() {
            let kind = if value.to_f64().is_nan() { "NaN" } else { "infinity" };
            return invalid_parameter(format!("{what} value cannot be {kind}"));
        }
    }
    let zero = Numeric::from_i64(0);
    if *step == zero {
        return zero_step();
    }
    let mut rows = Vec::new();
    let mut current = start.clone();
    while if *step > zero { current <= *stop } else { current >= *stop } {
        bounded(&rows)?;
        let next = current.add(step)?;
        rows.push(vec![Datum::Numeric(current)]);
        current = next;
    }
    Ok(rows)
}

fn time_series(call: &Call<'_>, args: &[Datum]) -> Result<Vec<Row>> {
    let step = interval(&args[2])?;
    let zero = Datum::Interval(Default::default());
    let direction = compare(&args[2], SqlType::Interval, &zero, SqlType::Interval, call.context);
    if direction.is_eq() {
        return zero_step();
    }
    let stop = micros(&args[1])?;
    let mut current = args[0].clone();
    let mut rows = Vec::new();
    loop {
        let at = micros(&current)?;
        if if direction.is_gt() { at > stop } else { at < stop } {
            return Ok(rows);
        }
        bounded(&rows)?;
        let next = datetime::shift(call, &current, step)?;
        rows.push(vec![current]);
        if micros(&next)? == at {
            return error(ValueErrorKind::DatetimeOverflow, "timestamp out of range");
        }
        current = next;
    }
}

fn generate_subscripts(_call: &Call<'_>, args: &[Datum]) -> Result<Vec<Row>> {
    let value = array(&args[0])?;
    if int4(&args[1])? != 1 {
        return Ok(Vec::new());
    }
    let mut subscripts = (0..value.elements.len() as i32)
        .map(|at| Datum::Int4(value.lower_bound + at))
        .collect::<Vec<_>>();
    if matches!(args.get(2), Some(Datum::Bool(true))) {
        subscripts.reverse();
    }
    Ok(column(subscripts))
}
