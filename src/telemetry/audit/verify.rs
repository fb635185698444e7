//! Verifies the chain of an audit trail: finds lines that were altered, removed or inserted.
//!
//! A trail whose last lines were removed, and a last line that was altered, look like a trail that ends there. Without a key,
//! anyone who can write the file can also make the chain anew.

use std::io::{self, BufRead};

use serde::Deserialize;

use super::chain::Digest;

/// What is wrong at a line, or worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// The line is no line of an audit trail.
    NotALine,
    /// The line does not follow the line before it.
    DoesNotFollow,
    /// The last line has no end.
    NotEnded,
    /// The line follows a line that is in an earlier file.
    FollowsEarlier,
    /// The line begins a chain.
    Begins,
}

impl Remark {
    /// Whether the trail is not as it was written.
    pub const fn is_fault(self) -> bool {
        matches!(self, Self::NotALine | Self::DoesNotFollow | Self::NotEnded)
    }

    /// What is the matter, for a person.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotALine => "not a line of an audit trail",
            Self::DoesNotFollow => {
                "does not follow the line before: that line was altered, or lines between them were removed or \
                 inserted (or the key is another one)"
            }
            Self::NotEnded => "the last line is incomplete",
            Self::FollowsEarlier => "follows lines of an earlier file, which were not verified",
            Self::Begins => "begins a chain: lines that stood before it would not be missed",
        }
    }
}

/// Verifies the files of one trail, the oldest first.
#[derive(Debug)]
pub struct Verification<'a> {
    /// A line must have one of these digests of the line before it.
    digests: &'a [Digest],
    /// The digests of the line before; `None` before the first.
    previous: Option<Vec<String>>,
}

/// The member that the chain consists of.
#[derive(Deserialize)]
struct Link {
    #[serde(deserialize_with = "required")]
    previous: Option<String>,
}

/// An absent member is not null.
fn required<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

impl<'a> Verification<'a> {
    /// A verification with these digests.
    pub const fn new(digests: &'a [Digest]) -> Self {
        Self { digests, previous: None }
    }

    /// Verifies a file, and returns the number of its lines. `remark` is called with the number of a line.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn file(&mut self, mut file: impl BufRead, mut remark: impl FnMut(u64, Remark)) -> io::Result<u64> {
        let mut number = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                return Ok(number);
            }
            number += 1;
            let is_ended = line.pop_if(|last| *last == b'\n').is_some();
            if !is_ended {
                remark(number, Remark::NotEnded);
            }
            if let Some(found) = self.line(&line)
                && (is_ended || found != Remark::NotALine)
            {
                remark(number, found);
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Option<Remark> {
        let parsed = serde_json::from_slice::<Link>(line).ok();
        let before = self.previous.replace(self.digests.iter().map(|digest| digest.of(line)).collect());
        let Some(Link { previous }) = parsed else { return Some(Remark::NotALine) };
        match (before, previous) {
            (_, None) => Some(Remark::Begins),
            (None, Some(_)) => Some(Remark::FollowsEarlier),
            (Some(before), Some(previous)) => (!before.contains(&previous)).then_some(Remark::DoesNotFollow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(digest: &Digest, count: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for number in 0..count {
            let previous = lines.last().map(|line| digest.of(line.as_bytes()));
            lines.push(serde_json::json!({ "detail": number, "previous": previous }).to_string());
        }
        lines
    }

    fn faults(digests: &[Digest], files: &[&[String]]) -> Vec<(usize, u64, Remark)> {
        let mut verification = Verification::new(digests);
        let mut found = Vec::new();
        for (index, lines) in files.iter().enumerate() {
            let text = lines.join("\n") + if lines.is_empty() { "" } else { "\n" };
            let count = verification
                .file(text.as_bytes(), |line, remark| {
                    if remark.is_fault() {
                        found.push((index, line, remark));
                    }
                })
                .unwrap();
            assert_eq!(count, lines.len() as u64);
        }
        found
    }

    #[test]
    fn an_altered_removed_inserted_or_moved_line_shows_at_the_next_one() {
        for key in [None, Some(&b"key"[..])] {
            let digests = [Digest::new(key)];
            let lines = trail(&digests[0], 6);
            let check = |lines: &[String]| faults(&digests, &[lines]);
            assert_eq!(check(&lines), []);

            let mut altered = lines.clone();
            altered[2] = altered[2].replace(":2,", ":7,");
            assert_eq!(check(&altered), [(0, 4, Remark::DoesNotFollow)]);
            let mut removed = lines.clone();
            removed.remove(2);
            assert_eq!(check(&removed), [(0, 3, Remark::DoesNotFollow)]);
            let mut inserted = lines.clone();
            inserted.insert(2, "nonsense".to_owned());
            let expected = [(0, 3, Remark::NotALine), (0, 4, Remark::DoesNotFollow)];
            assert_eq!(check(&inserted), expected);
            let mut moved = lines.clone();
            moved.swap(2, 3);
            assert_eq!(check(&moved).len(), 3);

            // What does not show: a cut end, and the last line.
            assert_eq!(check(&lines[..4]), []);
        }
    }

    #[test]
    fn the_chain_goes_on_from_file_to_file() {
        let digests = [Digest::new(Some(b"key"))];
        let lines = trail(&digests[0], 6);
        assert_eq!(faults(&digests, &[&lines[..2], &lines[2..]]), []);
        assert_eq!(faults(&digests, &[&lines[2..]]), [], "an earlier file may be gone");
        assert_eq!(faults(&digests, &[&lines[..2], &lines[3..]]), [(1, 1, Remark::DoesNotFollow)]);
    }

    #[test]
    fn another_key_fits_no_line_and_one_of_several_is_enough() {
        let lines = trail(&Digest::new(Some(b"key")), 3);
        assert_eq!(faults(&[Digest::new(Some(b"other"))], &[&lines]).len(), 2);
        assert_eq!(faults(&[Digest::new(None)], &[&lines]).len(), 2);
        assert_eq!(faults(&[Digest::new(Some(b"other")), Digest::new(Some(b"key"))], &[&lines]), []);
    }

    #[test]
    fn an_incomplete_last_line_and_a_missing_member_are_faults() {
        let digests = [Digest::new(None)];
        let mut remarks = Vec::new();
        let text = "{\"previous\":null}\n{}\n{\"previous\":";
        Verification::new(&digests)
            .file(text.as_bytes(), |line, remark| remarks.push((line, remark)))
            .unwrap();
        assert_eq!(remarks, [(1, Remark::Begins), (2, Remark::NotALine), (3, Remark::NotEnded)]);
    }
}
