//! The forms that the values of keys have, for texts that are made from the schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;

use super::key::Entry;
use super::units::{Duration, OneOrMany, RequiredScopes, Size};
use crate::config::model::log::Sampling;
use crate::config::model::secret::SecretSource;

/// The form of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Shape {
    /// A string, or the path of a file.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number up to this one.
    Whole(u64),
    /// A number from 0 to 1.
    Share,
    /// A length of time.
    Duration,
    /// A number of bytes.
    Size,
    /// One of these strings.
    Choice(Vec<&'static str>),
    /// The source of a secret, or the secret.
    Secret,
    /// The value of a claim.
    Claim,
    /// A list.
    List(Box<Self>),
    /// A table with names of the operator's choice.
    Map(Box<Self>),
    /// A table with these keys.
    Table(Vec<Property>),
    /// One of these forms.
    OneOf(Vec<Self>),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Property {
    /// The name.
    pub(in crate::config) key: &'static str,
    /// The form of its value.
    pub(in crate::config) shape: Shape,
    /// Whether the value is shown where its line is quoted.
    pub(in crate::config) is_shown: bool,
}

impl Shape {
    /// A key of a table, also of a table among several forms or in a list.
    pub(in crate::config) fn property(&self, key: &str) -> Option<&Property> {
        match self {
            Self::Table(properties) => properties.iter().find(|property| property.key == key),
            Self::List(entry) => entry.property(key),
            Self::OneOf(shapes) => shapes.iter().find_map(|shape| shape.property(key)),
            _ => None,
        }
    }
}

/// A type whose values have a form.
pub(in crate::config) trait Shaped {
    /// The form.
    fn shape() -> Shape;
}

/// Gives types their forms.
macro_rules! shapes {
    ($($type:ty: $shape:expr,)*) => {$(
        impl Shaped for $type {
            fn shape() -> Shape {
                $shape
            }
        }
    )*};
}

pub(super) use shapes;

shapes! {
    String: Shape::Text,
    PathBuf: Shape::Text,
    bool: Shape::Bool,
    u8: Shape::Whole(Self::MAX.into()),
    u16: Shape::Whole(Self::MAX.into()),
    u32: Shape::Whole(Self::MAX.into()),
    // TOML has signed integers of 64 bits.
    u64: Shape::Whole(i64::MAX.cast_unsigned()),
    Duration: Shape::Duration,
    Size: Shape::Size,
    Sampling: Shape::OneOf(vec![Shape::Bool, Shape::Share]),
    SecretSource: Shape::Secret,
    RequiredScopes: Shape::OneOf(vec![Shape::Bool, Shape::List(Box::new(Shape::Text))]),
}

impl<T: Shaped> Shaped for Vec<Entry<T>> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: Shaped> Shaped for BTreeMap<Spanned<String>, Entry<T>> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}

impl<T: Shaped> Shaped for OneOrMany<T> {
    fn shape() -> Shape {
        Shape::OneOf(vec![T::shape(), Shape::List(Box::new(T::shape()))])
    }
}
