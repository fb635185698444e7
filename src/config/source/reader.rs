//! Reads values of the parsed TOML as the types of the [`schema`](super::schema).
//!
//! Each value is read once. A value that cannot be used is reported with its place and becomes [`Key::Refused`], and
//! reading continues with the next value. No message quotes a value: the value may be a secret.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{Entry, Key};
use super::nearest::nearest;
use super::problem::{Problem, Sources};
use super::synonyms::meant_key;

/// A value of the file with its place.
pub(super) type Written<'v> = Spanned<DeValue<'v>>;

/// A type that a value of the file can be read as.
pub(in crate::config) trait Value: Sized {
    /// Reads the value of the key `path`, such as `server.limits.streams`, or reports why this is impossible.
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A table with known keys.
pub(in crate::config) trait Table: Sized {
    /// The known keys.
    const KEYS: &'static [&'static str];

    /// Reads each known key, and notes the other ones.
    fn from_table(table: &DeTable<'_>, path: &str, reader: &mut Reader<'_>) -> Self;

    /// A table without keys.
    fn absent() -> Self;

    /// A table of which nothing is known.
    fn refused() -> Self;

    /// The table that is the value of a key.
    fn of(key: Key<Self>) -> Self {
        match key {
            Key::Absent => Self::absent(),
            Key::Refused => Self::refused(),
            Key::Written(table) => table.into_inner(),
        }
    }
}

/// Declares tables as structs with a field for each key: `section` for a table with a header of its own, `inline` with an
/// example for messages, and `plain` for a table that is read in a way of its own. In the lines that diagnostics quote, the
/// value of a key is `shown` or, as it may be a secret, `hidden`.
macro_rules! tables {
    (@is_shown shown) => { true };
    (@is_shown hidden) => { false };
    (@value plain $name:ident) => {};
    (@value section $name:ident) => {
        tables!(@value $name |value, path, reader| reader.section(value, path));
    };
    (@value inline $example:literal $name:ident) => {
        tables!(@value $name |value, path, reader| reader.inline_table(value, path, $example));
    };
    (@value $name:ident |$value:ident, $path:ident, $reader:ident| $read:expr) => {
        impl $crate::config::source::reader::Value for $name {
            fn read(
                $value: &$crate::config::source::reader::Written<'_>,
                $path: &str,
                $reader: &mut $crate::config::source::reader::Reader<'_>,
            ) -> Option<Self> {
                $read
            }
        }
    };
    ($($(#[$doc:meta])* $kind:ident $(($example:literal))? $name:ident { $($quoted:ident $key:ident: $type:ty,)* })*) => {$(
        tables!(@value $kind $($example)? $name);

        $(#[$doc])*
        #[derive(Debug)]
        pub(in crate::config) struct $name {
            $(pub(in crate::config) $key: $crate::config::source::key::Key<$type>,)*
        }

        impl $crate::config::source::reader::Table for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn from_table(
                table: &toml::de::DeTable<'_>,
                path: &str,
                reader: &mut $crate::config::source::reader::Reader<'_>,
            ) -> Self {
                let meant = reader.unknown_keys(table, path, Self::KEYS);
                Self { $($key: reader.key(table, path, stringify!($key), &meant),)* }
            }

            fn absent() -> Self {
                Self { $($key: $crate::config::source::key::Key::Absent,)* }
            }

            fn refused() -> Self {
                Self { $($key: $crate::config::source::key::Key::Refused,)* }
            }
        }

        impl $crate::config::source::shape::Shaped for $name {
            fn shape() -> $crate::config::source::shape::Shape {
                $crate::config::source::shape::Shape::Table(vec![
                    $($crate::config::source::shape::Property {
                        key: stringify!($key),
                        shape: <$type as $crate::config::source::shape::Shaped>::shape(),
                        is_shown: tables!(@is_shown $quoted),
                    }),*
                ])
            }
        }
    )*};
}
pub(super) use tables;

/// A key that its table does not have.
#[derive(Debug)]
pub(super) struct UnknownKey {
    /// The keys of the table.
    pub(super) known: &'static [&'static str],
    /// The path of the table.
    pub(super) path: String,
    pub(super) key: String,
    pub(super) place: Range<usize>,
}

/// Collects problems while values are read.
pub(in crate::config) struct Reader<'a> {
    sources: &'a Sources,
    /// The problems so far.
    pub(super) problems: Vec<Problem>,
    /// The unknown keys so far.
    pub(super) unknown: Vec<UnknownKey>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(sources: &'a Sources, problems: Vec<Problem>) -> Self {
        Self { sources, problems, unknown: Vec::new() }
    }

    /// Notes the unknown keys of a table. Returns the known keys that were probably meant.
    pub(super) fn unknown_keys(
        &mut self,
        table: &DeTable<'_>,
        path: &str,
        known: &'static [&'static str],
    ) -> Vec<&'static str> {
        let first = self.unknown.len();
        let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        self.unknown.extend(unknown.map(|key| UnknownKey {
            known,
            path: path.to_owned(),
            key: key.get_ref().to_string(),
            place: key.span(),
        }));
        self.unknown[first..].iter().filter_map(|unknown| meant_key(known, &unknown.key)).collect()
    }

    /// Reads a key of the table at `path`. An absent key that was probably `meant` by another name counts as refused.
    pub(super) fn key<T: Value>(
        &mut self,
        table: &DeTable<'_>,
        path: &str,
        key: &str,
        meant: &[&str],
    ) -> Key<T> {
        match table.get(key) {
            Some(value) => self.entry(value, &joined(path, key)).map_or(Key::Refused, Key::Written),
            None if meant.contains(&key) => Key::Refused,
            None => Key::Absent,
        }
    }

    fn entry<T: Value>(&mut self, value: &Written<'_>, path: &str) -> Entry<T> {
        T::read(value, path, self).map(|read| Spanned::new(value.span(), read))
    }

    /// The text of a string, or of an environment variable whose value was read as TOML, such as a client id of digits.
    pub(super) fn text<'t>(&self, value: &'t Written<'_>) -> Option<&'t str>
    where
        'a: 't,
    {
        let variable = || self.sources.whole_override(&value.span()).filter(|_| !value.get_ref().is_table());
        value.get_ref().as_str().or_else(variable)
    }

    /// Reports a value of another type than its key needs, in the place of that value.
    pub(super) fn mistyped<T>(&mut self, value: &Written<'_>, path: &str, expected: &str) -> Option<T> {
        let found = type_of(value.get_ref());
        self.problems.push(Problem::error(value.span(), format!("`{path}` must be {expected}, not {found}")));
        None
    }

    /// Reports a value of the right type that its key cannot have, in the place of that value.
    pub(super) fn invalid<T>(&mut self, value: &Written<'_>, path: &str, expected: &str) -> Option<T> {
        self.problems.push(Problem::error(value.span(), format!("`{path}` must be {expected}")));
        None
    }

    /// Reads a table with a header of its own.
    pub(super) fn section<T: Table>(&mut self, value: &Written<'_>, path: &str) -> Option<T> {
        let header = match path {
            _ if path.starts_with("routes[") => "[[routes]]".to_owned(),
            _ => format!("[{path}]"),
        };
        let Some(table) = value.get_ref().as_table() else {
            return self.not_a_section(value, path, &header);
        };
        Some(T::from_table(table, path, self))
    }

    /// Reports a value in the place of a table with a header of its own.
    pub(super) fn not_a_section<T>(&mut self, value: &Written<'_>, path: &str, header: &str) -> Option<T> {
        self.problems.push(
            Problem::error(value.span(), format!("`{path}` must be a table"))
                .help(format!("write {header} on a line of its own, and its keys below")),
        );
        None
    }

    /// Reads tables with names of the user's choice, each below a `header` such as `[credentials.NAME]`. Without a name, the keys
    /// of one stand in the place of names: `title` and `help` say so.
    pub(super) fn named_tables<T: Table + Value>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        header: &str,
        (title, help): (&str, &str),
    ) -> Option<BTreeMap<Spanned<String>, Entry<T>>> {
        let Some(table) = value.get_ref().as_table() else {
            return self.not_a_section(value, path, header);
        };
        let is_key = |key: &str| T::KEYS.contains(&key);
        if table.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
            self.problems.push(Problem::error(value.span(), title).help(help));
            return None;
        }
        Value::read(value, path, self)
    }

    /// Reads a table that is the value of a key. `example` is for messages.
    pub(super) fn inline_table<T: Table>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        example: &str,
    ) -> Option<T> {
        match value.get_ref().as_table() {
            Some(table) => Some(T::from_table(table, path, self)),
            None => self.mistyped(value, path, example),
        }
    }

    /// Reads the entries of a list; `None` if the value is no list.
    pub(super) fn list<T: Value>(&mut self, value: &Written<'_>, path: &str) -> Option<Vec<Entry<T>>> {
        let list = value.get_ref().as_array()?.iter().enumerate();
        Some(list.map(|(index, entry)| self.entry(entry, &format!("{path}[{index}]"))).collect())
    }

    /// Reads a string that is one of these names.
    pub(super) fn choice<T: Copy>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(value);
        let chosen = text.and_then(|text| choices.iter().find(|(name, _)| *name == text));
        if let Some((_, chosen)) = chosen {
            return Some(*chosen);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = match names.as_slice() {
            [only] => format!("\"{only}\""),
            [one, other] => format!("\"{one}\" or \"{other}\""),
            _ => format!("one of: \"{}\"", names.join("\", \"")),
        };
        let Some(text) = text else { return self.mistyped(value, path, &expected) };
        let problem = Problem::error(value.span(), format!("`{path}` must be {expected}"));
        self.problems.push(match nearest(&names, text, |distance, _| distance <= 2) {
            Some(meant) => problem.help(format!("did you mean \"{meant}\"?")),
            None => problem,
        });
        None
    }

    /// Reads a string by its [`FromStr`].
    pub(super) fn parsed<T: FromStr<Err = String>>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        expected: &str,
    ) -> Option<T> {
        let Some(text) = self.text(value) else { return self.mistyped(value, path, expected) };
        text.parse()
            .map_err(|error| self.problems.push(Problem::error(value.span(), format!("`{path}`: {error}"))))
            .ok()
    }

    /// Reads a whole number from 0 to `max`.
    fn number(&mut self, value: &Written<'_>, path: &str, max: u64) -> Option<u64> {
        let expected = format!("a whole number from 0 to {max}");
        let Some(written) = value.get_ref().as_integer() else {
            return self.mistyped(value, path, &expected);
        };
        let number = u64::from_str_radix(written.as_str(), written.radix()).ok();
        number.filter(|number| *number <= max).or_else(|| self.invalid(value, path, &expected))
    }
}

/// The path of a key in the table at `path`.
pub(super) fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The type of a value, as messages call it.
fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

macro_rules! texts {
    ($($type:ty: $expected:literal,)*) => {$(
        impl Value for $type {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                let text = reader.text(value).map(Self::from);
                text.or_else(|| reader.mistyped(value, path, $expected))
            }
        }
    )*};
}

texts! {
    String: "a string",
    PathBuf: "the path of a file, as a string",
}

impl Value for bool {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        value.get_ref().as_bool().or_else(|| reader.mistyped(value, path, "true or false"))
    }
}

macro_rules! numbers {
    ($($number:ty: $max:expr,)*) => {$(
        impl Value for $number {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.number(value, path, $max)?.try_into().ok()
            }
        }
    )*};
}

numbers! {
    u8: Self::MAX.into(),
    u16: Self::MAX.into(),
    u32: Self::MAX.into(),
    // TOML has signed integers of 64 bits.
    u64: i64::MAX.cast_unsigned(),
}

impl<T: Value> Value for Vec<Entry<T>> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let list = reader.list(value, path);
        list.or_else(|| reader.mistyped(value, path, "a list in brackets, such as [\"a\", \"b\"] or [401]"))
    }
}

impl<T: Value> Value for BTreeMap<Spanned<String>, Entry<T>> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.mistyped(value, path, "a table, such as { key = \"value\" }");
        };
        let named = table.iter().map(|(name, entry)| {
            let read = reader.entry(entry, &joined(path, name.get_ref()));
            (Spanned::new(name.span(), name.get_ref().to_string()), read)
        });
        Some(named.collect())
    }
}

#[cfg(test)]
mod tests;
