//! Names, text and bytes as they are printed, so that they are read back as themselves.

use std::fmt::{self, Display, Formatter, Write};

use crate::{
    ast::Name,
    keyword::Keyword,
    lexer::{is_word_part, is_word_start},
};

pub(crate) fn is_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word_start) && text.chars().all(is_word_part)
}

/// A name: bare if it would be read back as itself.
pub(crate) struct Quoted<'a>(pub(crate) &'a Name);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = &self.0.node;
        let is_folded = !name.contains(|character: char| character.is_ascii_uppercase());
        let is_plain = is_word(name) && is_folded && Keyword::find(name).is_none();
        if is_plain { f.write_str(name) } else { Text(name).fmt(f) }
    }
}

/// Text: in double quotes, or in single ones if that spares all escapes and does not make it JSON.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let has_escapes = self.0.contains(['"', '\\']) && !self.0.contains(char::is_control);
        if has_escapes && !self.0.trim_start().starts_with(['{', '[']) {
            write!(f, "'{}'", self.0.replace('\'', "''"))
        } else {
            Escaped(self.0).fmt(f)
        }
    }
}

/// Text in double quotes with JSON's escapes.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
                plain => f.write_char(plain)?,
            }
        }
        f.write_char('"')
    }
}

pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("X'")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("'")
    }
}
