//! Values as far as they are usable.
//!
//! A check that draws a conclusion from the value of a key, or from its absence, must ask for the third case.

use std::ops::Range;

use toml::Spanned;

/// The value of a key, as far as it is usable.
#[derive(Debug)]
pub(in crate::config) enum Key<T> {
    /// The key is not in the file.
    Absent,
    /// The key is in the file, and its value is unusable. That has been reported: the key is not absent, has not its default,
    /// and has no value that another key could differ from.
    Refused,
    /// The value with its place.
    Written(Spanned<T>),
}

impl<T> Key<T> {
    /// The value, if there is a usable one.
    pub(in crate::config) const fn usable(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Written(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }

    /// The value, if there is a usable one.
    pub(in crate::config) fn into_usable(self) -> Option<Spanned<T>> {
        match self {
            Self::Written(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }

    /// The place of a usable value.
    pub(in crate::config) fn place(&self) -> Option<Range<usize>> {
        self.usable().map(Spanned::span)
    }

    /// Whether the key is not in the file.
    pub(in crate::config) const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Takes the value out, which leaves the key absent.
    pub(in crate::config) const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Absent)
    }

    /// The value, and `default` for an absent key. For a refused one too: then no configuration results, and no
    /// conclusion may be drawn from this value. [`known_or`](Self::known_or) is for conclusions.
    pub(in crate::config) fn or(self, default: T) -> T {
        self.into_usable().map_or(default, Spanned::into_inner)
    }

    /// As [`or`](Self::or), with the default of the type.
    pub(in crate::config) fn or_default(self) -> T
    where
        T: Default,
    {
        self.or(T::default())
    }

    /// The value, `default` for an absent key, and `None` for a refused one.
    pub(in crate::config) fn known_or(&self, default: T) -> Option<T>
    where
        T: Copy,
    {
        self.read_or(default, |value| Some(*value.get_ref()))
    }

    /// What `read` makes of the value, `absent` for an absent key, and `None` for a refused one.
    pub(in crate::config) fn read_or<U>(
        &self,
        absent: U,
        read: impl FnOnce(&Spanned<T>) -> Option<U>,
    ) -> Option<U> {
        match self {
            Self::Absent => Some(absent),
            Self::Refused => None,
            Self::Written(value) => read(value),
        }
    }

    /// Sets an absent key.
    pub(in crate::config) fn fill(&mut self, value: Spanned<T>) {
        if self.is_absent() {
            *self = Self::Written(value);
        }
    }
}

/// An entry of a list or a table; `None` for a value that cannot be used, which has been reported.
pub(in crate::config) type Entry<T> = Option<Spanned<T>>;
