//! `strip_prefix`: what a route takes off paths on their way out, and puts back on the way back.

/// A route's prefix, if it is stripped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    text: String,
    segments: usize,
}

impl Prefix {
    /// A prefix as configured: `/…` without a slash at its end, or `/`, which takes nothing off.
    pub fn new(prefix: &str) -> Self {
        let text = prefix.trim_end_matches('/').to_owned();
        Self { segments: text.matches('/').count(), text }
    }

    /// How it is put back; empty where nothing is taken off.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is behind the prefix of a path that has it, however the caller writes it: empty, or `/…`.
    pub fn off<'p>(&self, path: &'p str) -> &'p str {
        if self.segments == 0 {
            return path;
        }
        // The first slash opens the first segment.
        path.match_indices('/').nth(self.segments).map_or("", |(at, _)| &path[at..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_by_its_segments() {
        let prefix = Prefix::new("/gen/cloud");
        for (path, rest) in [
            ("/gen/cloud", ""),
            ("/gen/cloud/", "/"),
            ("/gen/cloud/x/y", "/x/y"),
            ("/%67en/%63loud/%78", "/%78"),
            ("/gen/cloud//x", "//x"),
        ] {
            assert_eq!(prefix.off(path), rest, "{path}");
        }
        assert_eq!(prefix.text(), "/gen/cloud");
    }

    #[test]
    fn the_root_and_none_take_nothing_off() {
        for prefix in [Prefix::default(), Prefix::new("/")] {
            assert_eq!(prefix.off("/x/y"), "/x/y");
            assert_eq!(prefix.text(), "");
        }
    }
}
