//! COPY's options, checked and completed with the format's defaults.

use crate::{
    copy::{CopyFormat, CopyOptions, CopyTarget, Header},
    error::{PgError, SqlState},
    parse,
};

/// The codec's format and options. 22023 and 0A000 as Postgres has them.
pub(super) fn resolve(
    given: &parse::CopyOptions,
    target: &CopyTarget,
) -> Result<(CopyFormat, CopyOptions), PgError> {
    let (format, mut options) = match given.format {
        parse::CopyFormat::Text => (CopyFormat::Text, CopyOptions::text()),
        parse::CopyFormat::Csv => (CopyFormat::Csv, CopyOptions::csv()),
        parse::CopyFormat::Binary => (CopyFormat::Binary, CopyOptions::text()),
    };
    if format == CopyFormat::Binary {
        let textual = given.delimiter.is_some() || given.null.is_some() || given.header;
        if textual {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                "cannot specify DELIMITER, NULL or HEADER in BINARY mode",
            ));
        }
        return Ok((format, options));
    }
    if let Some(delimiter) = &given.delimiter {
        options.delimiter = one_byte("delimiter", delimiter)?;
        let letters = b"\\.abcdefghijklmnopqrstuvwxyz0123456789";
        if matches!(options.delimiter, b'\n' | b'\r')
            || (format == CopyFormat::Text && letters.contains(&options.delimiter))
        {
            return Err(PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("COPY delimiter cannot be \"{delimiter}\""),
            ));
        }
    }
    if let Some(null) = &given.null {
        if null.contains(['\n', '\r']) || null.bytes().any(|byte| byte == options.delimiter) {
            return Err(PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "COPY null representation cannot contain the delimiter, newline or carriage return",
            ));
        }
        options.null.clone_from(null);
    }
    options.header = match (given.header, given.header_match) {
        (false, _) => Header::No,
        (true, false) => Header::Yes,
        (true, true) => Header::Match,
    };
    csv_options(given, target, format, &mut options)?;
    Ok((format, options))
}

fn csv_options(
    given: &parse::CopyOptions,
    target: &CopyTarget,
    format: CopyFormat,
    options: &mut CopyOptions,
) -> Result<(), PgError> {
    let used = [
        ("quote", given.quote.is_some()),
        ("escape", given.escape.is_some()),
        ("force quote", given.force_quote.is_some()),
        ("force not null", given.force_not_null.is_some()),
        ("force null", given.force_null.is_some()),
    ];
    if format != CopyFormat::Csv
        && let Some((name, _)) = used.iter().find(|(_, given)| *given)
    {
        return Err(PgError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("COPY {name} available only in CSV mode"),
        ));
    }
    if let Some(quote) = &given.quote {
        options.quote = one_byte("quote", quote)?;
        options.escape = options.quote;
    }
    if let Some(escape) = &given.escape {
        options.escape = one_byte("escape", escape)?;
    }
    if options.quote == options.delimiter {
        return Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "COPY delimiter and quote must be different",
        ));
    }
    options.force_quote = flags(given.force_quote.as_deref(), target)?;
    options.force_not_null = flags(given.force_not_null.as_deref(), target)?;
    options.force_null = flags(given.force_null.as_deref(), target)?;
    Ok(())
}

fn one_byte(name: &str, value: &str) -> Result<u8, PgError> {
    match value.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(PgError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("COPY {name} must be a single one-byte character"),
        )),
    }
}

/// One flag for each column; an empty list means all of them (`*`).
fn flags(names: Option<&[String]>, target: &CopyTarget) -> Result<Vec<bool>, PgError> {
    let Some(names) = names else { return Ok(Vec::new()) };
    if names.is_empty() {
        return Ok(vec![true; target.columns.len()]);
    }
    let mut flags = vec![false; target.columns.len()];
    for name in names {
        let position = target.names().position(|column| column == name).ok_or_else(|| {
            PgError::new(
                SqlState::INVALID_COLUMN_REFERENCE,
                format!("FORCE column \"{name}\" not referenced by COPY"),
            )
        })?;
        flags[position] = true;
    }
    Ok(flags)
}
