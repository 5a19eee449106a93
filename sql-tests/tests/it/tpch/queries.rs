//! The 22 queries as the benchmark's validation run has them: their text, the values put into it, their row limits.

use anyhow::{Context, Result};
use cortex_sql_tests::{Client, ClientError, Reply};
use tpchgen::q_and_a::queries;

pub const NUMBERS: std::ops::RangeInclusive<i32> = 1..=22;

/// What surrounds a query that needs a view.
pub struct Query {
    before: Option<String>,
    text: String,
    after: Option<String>,
}

/// The values of the validation run, in the order of their numbers in the text.
fn values(number: i32, scale: f64) -> Vec<String> {
    let fixed: &[&str] = match number {
        1 => &["90"],
        2 => &["15", "BRASS", "EUROPE"],
        3 => &["BUILDING", "1995-03-15"],
        4 => &["1993-07-01"],
        5 => &["ASIA", "1994-01-01"],
        6 => &["1994-01-01", "0.06", "24"],
        7 => &["FRANCE", "GERMANY"],
        8 => &["BRAZIL", "AMERICA", "ECONOMY ANODIZED STEEL"],
        9 => &["green"],
        10 => &["1993-10-01"],
        11 => return vec!["GERMANY".into(), format!("{:.10}", 0.0001 / scale)],
        12 => &["MAIL", "SHIP", "1994-01-01"],
        13 => &["special", "requests"],
        14 => &["1995-09-01"],
        15 => &["1996-01-01"],
        16 => &["Brand#45", "MEDIUM POLISHED", "49", "14", "23", "45", "19", "3", "36", "9"],
        17 => &["Brand#23", "MED BOX"],
        18 => &["300"],
        19 => &["Brand#12", "Brand#23", "Brand#34", "1", "10", "20"],
        20 => &["forest", "1994-01-01", "CANADA"],
        21 => &["SAUDI ARABIA"],
        22 => &["13", "31", "23", "29", "30", "18", "17"],
        _ => &[],
    };
    fixed.iter().map(|value| (*value).to_owned()).collect()
}

/// The number of rows to return, where the benchmark names one.
fn limit(number: i32) -> Option<u32> {
    match number {
        2 | 18 | 21 => Some(100),
        3 => Some(10),
        10 => Some(20),
        _ => None,
    }
}

pub fn query(number: i32, scale: f64) -> Result<Query> {
    let text = queries::query(number).with_context(|| format!("there is no query {number}"))?;
    // PostgreSQL's intervals take no precision of days.
    let mut text = text.replace(" day (3)", " day").replace(":s", "0");
    // From the last, because `:1` is the beginning of `:10`.
    for (i, value) in values(number, scale).iter().enumerate().rev() {
        text = text.replace(&format!(":{}", i + 1), value);
    }
    let mut parts: Vec<String> = text
        .split(';')
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let (before, after) =
        if parts.len() == 3 { (Some(parts.remove(0)), parts.pop()) } else { (None, None) };
    let mut text = parts.pop().context("the query is empty")?;
    if let Some(limit) = limit(number) {
        text += &format!("\nlimit {limit}");
    }
    Ok(Query { before, text, after })
}

/// Runs it; in the extended protocol, because a simple query would allow a plan with its values in it alone.
pub fn run(client: &mut Client, query: &Query) -> Result<Reply, ClientError> {
    if let Some(before) = &query.before {
        client.simple(before)?;
    }
    let reply = client.extended(&query.text, &[], false);
    if let Some(after) = &query.after {
        client.simple(after)?;
    }
    reply
}
