//! The prefix that a route strips from request paths (`strip_prefix`) and restores in `Location`.

/// A stripped prefix; empty for a route that strips none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    text: String,
    segments: usize,
}

impl Prefix {
    /// A prefix as configured: `/…` without a trailing slash, or `/`, which strips nothing.
    pub fn new(prefix: &str) -> Self {
        let text = prefix.trim_end_matches('/').to_owned();
        Self { segments: text.matches('/').count(), text }
    }

    /// The prefix as configured; empty if nothing is stripped.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The rest of a path after the prefix, in whatever encoding the path has the prefix: empty, or `/…`.
    pub fn strip<'p>(&self, path: &'p str) -> &'p str {
        if self.segments == 0 {
            return path;
        }
        // A slash begins each segment.
        path.match_indices('/').nth(self.segments).map_or("", |(at, _)| &path[at..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_stripped_by_its_segments() {
        let prefix = Prefix::new("/gen/cloud");
        for (path, rest) in [
            ("/gen/cloud", ""),
            ("/gen/cloud/", "/"),
            ("/gen/cloud/x/y", "/x/y"),
            ("/%67en/%63loud/%78", "/%78"),
            ("/gen/cloud//x", "//x"),
        ] {
            assert_eq!(prefix.strip(path), rest, "{path}");
        }
        assert_eq!(prefix.text(), "/gen/cloud");
    }

    #[test]
    fn the_root_and_no_prefix_strip_nothing() {
        for prefix in [Prefix::default(), Prefix::new("/")] {
            assert_eq!(prefix.strip("/x/y"), "/x/y");
            assert_eq!(prefix.text(), "");
        }
    }
}
