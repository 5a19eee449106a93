//! Readers and writers against each other in any cut of the stream, and against what PostgreSQL 15 says of bad data.

use std::sync::Arc;

use cortex_shard_api::{SqlType, TypeMod, value::ValueSettings};

use super::{
    binary::BinaryWriter,
    csv::CsvWriter,
    format::{CopyReader, CopyRow},
    text::TextWriter,
    *,
};
use crate::error::PgError;

fn target(columns: &[(&str, SqlType)]) -> Arc<CopyTarget> {
    let columns = columns
        .iter()
        .map(|(name, ty)| CopyColumn { name: (*name).into(), ty: TypeMod::plain(*ty) })
        .collect();
    Arc::new(CopyTarget { table: "t".into(), columns })
}

fn two() -> Arc<CopyTarget> {
    target(&[("a", SqlType::Int4), ("b", SqlType::Text)])
}

type Rows = Vec<Vec<Option<String>>>;

/// Reads data in pieces of a size.
fn read(
    format: CopyFormat,
    options: &CopyOptions,
    target: &Arc<CopyTarget>,
    data: &[u8],
    piece: usize,
) -> Result<Rows, PgError> {
    let mut reader = CopyReader::new(format, target.clone(), options.clone());
    let mut rows = Vec::new();
    let take = |reader: &mut CopyReader, rows: &mut Rows| {
        while let Some(row) = reader.next_row()? {
            rows.push(match row {
                CopyRow::Text(row) => {
                    (0..row.len()).map(|i| row.field(i).map(String::from)).collect()
                }
                CopyRow::Binary(row) => (0..row.len())
                    .map(|i| row.field(i).map(|bytes| String::from_utf8_lossy(bytes).into()))
                    .collect(),
            });
        }
        Ok::<(), PgError>(())
    };
    for bytes in data.chunks(piece) {
        reader.push(bytes)?;
        take(&mut reader, &mut rows)?;
    }
    reader.finish();
    take(&mut reader, &mut rows)?;
    Ok(rows)
}

fn words(rows: &[&[Option<&str>]]) -> Rows {
    rows.iter().map(|row| row.iter().map(|field| field.map(String::from)).collect()).collect()
}

#[test]
fn text_in_any_cut() {
    let data = b"1\tx\n2\t\\N\n3\t\n4\ta\\tb\\\\c\\x41\\101\\\nd\\q\n5\t\xc3\xa9\\303\\251";
    let expected = words(&[
        &[Some("1"), Some("x")],
        &[Some("2"), None],
        &[Some("3"), Some("")],
        &[Some("4"), Some("a\tb\\cAA\ndq")],
        &[Some("5"), Some("éé")],
    ]);
    for piece in 1..data.len() + 1 {
        let rows = read(CopyFormat::Text, &CopyOptions::text(), &two(), data, piece);
        assert_eq!(rows.expect("valid"), expected, "{piece}");
    }
}

#[test]
fn csv_in_any_cut() {
    let data = b"1,x\r\n2,\r\n3,\"\"\r\n4,\"a,\"\"b\"\"\r\nc\"\r\n5,x\"y\"z\r\n";
    let expected = words(&[
        &[Some("1"), Some("x")],
        &[Some("2"), None],
        &[Some("3"), Some("")],
        &[Some("4"), Some("a,\"b\"\r\nc")],
        &[Some("5"), Some("xyz")],
    ]);
    for piece in 1..data.len() + 1 {
        let rows = read(CopyFormat::Csv, &CopyOptions::csv(), &two(), data, piece);
        assert_eq!(rows.expect("valid"), expected, "{piece}");
    }
}

#[test]
fn end_markers_and_line_ends() {
    let text = CopyOptions::text();
    let csv = CopyOptions::csv();
    let one = words(&[&[Some("1"), Some("x")]]);
    for (format, options, data) in [
        (CopyFormat::Text, &text, "1\tx\n\\.\nrubbish"),
        (CopyFormat::Text, &text, "1\tx\n\\."),
        (CopyFormat::Text, &text, "1\tx\r\n\\.\r\n"),
        (CopyFormat::Text, &text, "1\tx\r"),
        (CopyFormat::Text, &text, "1\tx"),
        (CopyFormat::Csv, &csv, "1,x\n\\.\nrubbish"),
        (CopyFormat::Csv, &csv, "1,x\r\\.\r"),
        (CopyFormat::Csv, &csv, "1,\"x\""),
    ] {
        for piece in [1, 2, 3, 100] {
            let rows = read(format, options, &two(), data.as_bytes(), piece);
            assert_eq!(rows.expect("valid"), one, "{data:?} {piece}");
        }
    }
}

#[test]
fn headers_and_forced_nulls() {
    let mut options = CopyOptions { header: Header::Match, ..CopyOptions::csv() };
    let rows = read(CopyFormat::Csv, &options, &two(), b"a,\"b\"\n1,x\n", 3).expect("valid");
    assert_eq!(rows, words(&[&[Some("1"), Some("x")]]));
    options.header = Header::Yes;
    options.force_null = vec![true, false];
    options.force_not_null = vec![false, true];
    let rows = read(CopyFormat::Csv, &options, &two(), b"q\n\"\",\n", 3).expect("valid");
    assert_eq!(rows, words(&[&[None, Some("")]]));
    let mut options = CopyOptions { quote: b'\'', escape: b'\\', ..CopyOptions::csv() };
    options.null = "NULL".into();
    let rows = read(CopyFormat::Csv, &options, &two(), b"'\\'\\\\','NULL'\nNULL,\n", 2);
    assert_eq!(rows.expect("valid"), words(&[&[Some("'\\"), Some("NULL")], &[None, Some("")]]));
}

/// Recorded from PostgreSQL 15.
#[test]
fn errors_are_those_of_postgres() {
    let text = CopyOptions::text();
    let csv = CopyOptions::csv();
    let header = CopyOptions { header: Header::Match, ..CopyOptions::csv() };
    let long = format!("1\t{}\tb\n", "a".repeat(200));
    let long_context = format!("COPY t, line 1: \"1\t{}...\"", "a".repeat(98));
    for (format, options, data, message, context) in [
        (CopyFormat::Text, &text, "1\n", "missing data for column \"b\"", "COPY t, line 1: \"1\""),
        (
            CopyFormat::Text,
            &text,
            "1\ta\tb\n",
            "extra data after last expected column",
            "COPY t, line 1: \"1\ta\tb\"",
        ),
        (CopyFormat::Text, &text, &long, "extra data after last expected column", &long_context),
        (
            CopyFormat::Text,
            &text,
            "1\ta\n2\tb\r\n",
            "literal carriage return found in data",
            "COPY t, line 2",
        ),
        (
            CopyFormat::Text,
            &text,
            "1\ta\r\n2\tb\n",
            "literal newline found in data",
            "COPY t, line 2",
        ),
        (
            CopyFormat::Csv,
            &csv,
            "1,a\n2,b\r\n",
            "unquoted carriage return found in data",
            "COPY t, line 2",
        ),
        (
            CopyFormat::Csv,
            &csv,
            "1,\"abc\ndef\n",
            "unterminated CSV quoted field",
            "COPY t, line 1: \"1,\"abc\ndef\n\"",
        ),
        (
            CopyFormat::Csv,
            &csv,
            "1,a,b\n",
            "extra data after last expected column",
            "COPY t, line 1: \"1,a,b\"",
        ),
        (CopyFormat::Csv, &csv, "1\n", "missing data for column \"b\"", "COPY t, line 1: \"1\""),
        (
            CopyFormat::Csv,
            &header,
            "a,c\n1,x\n",
            "column name mismatch in header line field 2: got \"c\", expected \"b\"",
            "COPY t, line 1: \"a,c\"",
        ),
        (
            CopyFormat::Csv,
            &header,
            "a\n1,x\n",
            "wrong number of fields in header line: got 1, expected 2",
            "COPY t, line 1: \"a\"",
        ),
    ] {
        for piece in [1, 7, 1000] {
            let error =
                read(format, options, &two(), data.as_bytes(), piece).expect_err("bad data");
            assert_eq!(error.message, message, "{data:?}");
            assert_eq!(error.code.0, "22P04");
            assert_eq!(error.context.as_deref(), Some(context), "{data:?}");
        }
    }
    let error = read(CopyFormat::Text, &text, &two(), b"1\ta\n2\tb\xff\n", 3).expect_err("bad");
    assert_eq!(error.message, "invalid byte sequence for encoding \"UTF8\": 0xff");
    assert_eq!(error.context.as_deref(), Some("COPY t, line 2"));
}

#[test]
fn errors_name_line_and_column() {
    let mut reader = CopyReader::new(CopyFormat::Text, two(), CopyOptions::text());
    reader.push(b"1\ta\nx\tb\n").expect("room");
    let settings = ValueSettings::default();
    reader.next_row().expect("valid").expect("a row").datum(0, &settings).expect("1");
    let error =
        reader.next_row().expect("valid").expect("a row").datum(0, &settings).expect_err("x");
    assert_eq!(error.message, "invalid input syntax for type integer: \"x\"");
    assert_eq!(error.context.as_deref(), Some("COPY t, line 2, column a: \"x\""));
}

/// Fields with everything that needs care.
fn fields() -> Vec<Option<&'static str>> {
    vec![
        None,
        Some(""),
        Some("\\N"),
        Some("\\."),
        Some("a\tb"),
        Some("a,b\"c\""),
        Some("line\nline\r\nline"),
        Some("back\\slash"),
        Some("é\u{1f600}"),
        Some("\u{8}\u{b}\u{c}"),
        Some("\""),
        Some("plain"),
    ]
}

#[test]
fn what_is_written_is_read() {
    let all = fields();
    let rows: Vec<Vec<Option<&str>>> = (0..all.len())
        .map(|i| vec![all[i], all[(i * 5 + 3) % all.len()], all[(i * 7 + 1) % all.len()]])
        .collect();
    let expected: Rows =
        rows.iter().map(|row| row.iter().map(|field| field.map(String::from)).collect()).collect();
    let target = target(&[("a", SqlType::Text), ("b", SqlType::Text), ("c", SqlType::Text)]);

    let options = CopyOptions { header: Header::Match, ..CopyOptions::text() };
    let writer = TextWriter::new(&options);
    let mut text = Vec::new();
    writer.header(target.names(), &mut text);
    let options_csv = CopyOptions { header: Header::Match, ..CopyOptions::csv() };
    let writer_csv = CsvWriter::new(&options_csv, 3);
    let mut csv = Vec::new();
    writer_csv.header(target.names(), &mut csv);
    let mut binary = Vec::new();
    BinaryWriter.header(&mut binary);
    for row in &rows {
        BinaryWriter.begin_row(row.len(), &mut binary);
        for (i, field) in row.iter().enumerate() {
            writer.field(i, *field, &mut text);
            writer_csv.field(i, *field, &mut csv);
            let bytes =
                field.map(|text| |out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes()));
            BinaryWriter.field(bytes, &mut binary);
        }
        writer.end_row(&mut text);
        writer_csv.end_row(&mut csv);
    }
    BinaryWriter.trailer(&mut binary);
    for piece in [1, 2, 3, 5, 8, 13, 10_000] {
        let read_as = |format, options, data: &[u8]| {
            read(format, options, &target, data, piece).expect("what we write, we read")
        };
        assert_eq!(read_as(CopyFormat::Text, &options, &text), expected);
        assert_eq!(read_as(CopyFormat::Csv, &options_csv, &csv), expected);
        assert_eq!(read_as(CopyFormat::Binary, &options, &binary), expected);
    }
}

#[test]
fn bad_binary_data_is_refused() {
    let header = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
    let options = CopyOptions::text();
    for (tail, message) in [
        (&[0u8, 3][..], "row field count is 3, expected 2"),
        (&[0, 2, 0xff, 0xff, 0xff, 0xfe], "invalid field size"),
        (&[0, 2, 0, 0, 0, 9, 1], "unexpected EOF in COPY data"),
        (&[0], "unexpected EOF in COPY data"),
        (&[0xff, 0xff, 0], "received copy data after EOF marker"),
    ] {
        let data = [&header[..], tail].concat();
        for piece in [1, 4, 1000] {
            let error =
                read(CopyFormat::Binary, &options, &two(), &data, piece).expect_err("bad data");
            assert_eq!(error.message, message);
        }
    }
    let error = read(CopyFormat::Binary, &options, &two(), b"1\tx\n", 2).expect_err("bad data");
    assert_eq!(error.message, "COPY file signature not recognized");
}

/// Prints the rate; run with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn parse_rate() {
    let line = "python3-foo\t1.2.3-4\tpython\toptional\t123456\tLibrary for doing foo and bar\tDebian Team <team@example.org>\n";
    let line_csv =
        line.replace('\t', ",").replace("Library for doing foo and bar", "\"Library, for doing\"");
    let columns: Vec<(&str, SqlType)> = (0..7).map(|_| ("c", SqlType::Text)).collect();
    for (format, options, line) in [
        (CopyFormat::Text, CopyOptions::text(), line),
        (CopyFormat::Csv, CopyOptions::csv(), &line_csv),
    ] {
        let data = line.repeat(1_000_000);
        let started = std::time::Instant::now();
        let mut reader = CopyReader::new(format, target(&columns), options);
        let mut bytes = 0;
        for piece in data.as_bytes().chunks(64 << 10) {
            reader.push(piece).expect("room");
            while let Some(row) = reader.next_row().expect("valid") {
                let CopyRow::Text(row) = row else { continue };
                bytes += (0..7).map(|i| row.field(i).map_or(0, str::len)).sum::<usize>();
            }
        }
        let rate = data.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
        println!("{format:?}: {rate:.0} MB/s ({bytes} bytes of fields)");
    }
}
