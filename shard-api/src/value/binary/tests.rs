//! What PostgreSQL 15's send functions gave.

use proptest::prelude::*;

use super::*;
use crate::{
    types::SCALARS,
    value::{ValueSettings, text},
};

/// Type, text and bytes in hex.
const RECORDED: &[(&str, &str, &str)] = &[
    ("bool", "t", "01"),
    ("int2", "-2", "fffe"),
    ("int4", "123456789", "075bcd15"),
    ("int8", "-9000000000", "fffffffde78ee600"),
    ("float4", "1.5", "3fc00000"),
    ("float8", "-0", "8000000000000000"),
    ("float8", "NaN", "7ff8000000000000"),
    ("numeric", "0", "0000000000000000"),
    ("numeric", "0.00", "0000000000000002"),
    ("numeric", "1.10", "0002000000000002000103e8"),
    ("numeric", "-12345.678", "0003000140000003000109291a7c"),
    ("numeric", "1e20", "00010005000000000001"),
    ("numeric", "0.00001", "0001fffe0000000503e8"),
    ("numeric", "NaN", "00000000c0000000"),
    ("numeric", "-Infinity", "00000000f0000020"),
    ("numeric", "Infinity", "00000000d0000020"),
    (
        "numeric",
        "12345678901234567890123456789012345678901234567890.5",
        "000e000c00000001000c0d801ed204d2162e23340d801ed204d2162e23340d801ed21388",
    ),
    ("numeric", "10000", "00010001000000000001"),
    ("numeric", "1e-10", "0001fffd0000000a0064"),
    ("text", "añ", "61c3b1"),
    ("varchar", "x", "78"),
    ("bpchar", "a ", "6120"),
    ("name", "n", "6e"),
    ("bytea", "\\x00ff", "00ff"),
    ("date", "2024-01-02", "0000223f"),
    ("date", "infinity", "7fffffff"),
    ("date", "1999-12-31", "ffffffff"),
    ("time", "10:15:30.5", "00000008993ab5a0"),
    ("timestamp", "2024-01-02 10:15:30.5", "0002b0f28bfb55a0"),
    ("timestamp", "-infinity", "8000000000000000"),
    ("timestamptz", "1969-12-31 23:00:00+00", "fffca2fdee347c00"),
    ("interval", "1 year 2 days -3 hours", "fffffffd7c451400000000020000000c"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
    ("json", "[1,  2]", "5b312c2020325d"),
    (
        "jsonb",
        "{\"b\":1,\"a\":[1.0,null]}",
        "017b2261223a205b312e302c206e756c6c5d2c202262223a20317d",
    ),
    ("oid", "4294967295", "ffffffff"),
    (
        "_int4",
        "{1,NULL,3}",
        "00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003",
    ),
    ("_int4", "{}", "000000000000000000000017"),
    ("_text", "{a,\"b c\"}", "0000000100000000000000190000000200000001000000016100000003622063"),
    ("_int2", "[0:1]={5,6}", "0000000100000000000000150000000200000000000000020005000000020006"),
    (
        "_numeric",
        "{1.5}",
        "0000000100000000000006a400000001000000010000000c000200000000000100011388",
    ),
    ("_bool", "{t}", "00000001000000000000001000000001000000010000000101"),
    (
        "_jsonb",
        "{\"{\\\"a\\\": 1}\"}",
        "000000010000000000000eda000000010000000100000009017b2261223a20317d",
    ),
    (
        "_interval",
        "{1 day}",
        "0000000100000000000004a200000001000000010000001000000000000000000000000100000000",
    ),
];

fn all_types() -> Vec<SqlType> {
    SCALARS.iter().copied().chain(SCALARS.iter().filter_map(|ty| ty.array())).collect()
}

#[test]
fn values_are_sent_and_received_as_by_postgres() {
    let settings = ValueSettings::default();
    for (name, text, hex) in RECORDED {
        let ty = *all_types().iter().find(|ty| ty.catalog_name() == *name).expect("a type");
        let value = text::parse(ty, text, &settings).expect("valid");
        let mut sent = Vec::new();
        encode(&value, ty, &mut sent);
        let sent_hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sent_hex, *hex, "{name} {text}");
        let received = decode(ty, &sent).expect("what we send, we receive");
        assert!(received.is_identical(&value), "{name} {text}: {received:?}");
    }
}

#[test]
fn bad_bytes_are_refused() {
    for (ty, bytes, message) in [
        (SqlType::Int4, &[0, 0, 1][..], "insufficient data left in message"),
        (SqlType::Int4, &[0, 0, 0, 0, 1], "incorrect binary data format"),
        (SqlType::Jsonb, &[2, b'1'], "unsupported jsonb version number 2"),
        (SqlType::Text, b"a\xff", "invalid byte sequence for encoding \"UTF8\": 0xff"),
        (SqlType::Text, b"a\0b", "invalid byte sequence for encoding \"UTF8\": 0x00"),
        (SqlType::Time, &[0x7f; 8], "time out of range"),
        (
            SqlType::Array(&SqlType::Int4),
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1],
            "insufficient data left in message",
        ),
    ] {
        assert_eq!(decode(ty, bytes).expect_err("malformed").message, message);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for ty in all_types() {
            if let Ok(value) = decode(ty, &bytes) {
                let mut out = Vec::new();
                encode(&value, ty, &mut out);
            }
        }
    }

    #[test]
    fn forged_array_headers_do_not_panic(count in any::<u32>(), tail in any::<Vec<u8>>()) {
        for ty in all_types() {
            let Some(element) = ty.element() else { continue };
            let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 0];
            bytes.extend_from_slice(&element.oid().to_be_bytes());
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 1]);
            bytes.extend_from_slice(&tail);
            _ = decode(ty, &bytes);
        }
    }
}
