//! Suggestions for misspelt names.

/// The known name with the smallest edit distance to `written`, if `is_near` accepts the distance and the name.
pub(in crate::config) fn nearest<'a>(
    known: &[&'a str],
    written: &str,
    is_near: impl Fn(usize, &str) -> bool,
) -> Option<&'a str> {
    let distances = known.iter().map(|name| (strsim::damerau_levenshtein(name, written), *name));
    distances.min().filter(|(distance, name)| is_near(*distance, name)).map(|(_, name)| name)
}

/// The known key that an unknown key probably stands for.
pub(in crate::config) fn nearest_key(known: &[&'static str], written: &str) -> Option<&'static str> {
    nearest(known, &written.to_ascii_lowercase(), |distance, key| distance <= 3 && distance * 2 < key.len())
}

/// The known name that was probably meant: a suffix, such as the region of a login host, or a similar name.
pub(in crate::config) fn nearest_domain(known: &[&'static str], written: &str) -> Option<&'static str> {
    let suffixes = known.iter().filter(|known| written.ends_with(&format!(".{known}")));
    let suffix = suffixes.max_by_key(|known| known.len()).copied();
    suffix.or_else(|| nearest(known, written, |distance, _| distance <= 3))
}
