//! Refuses addresses that cannot be bound at the same time, and tells when two paths are of one file.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::Resolver;
use crate::config::model::listen::Listen;

impl Resolver<'_> {
    /// Refuses an address of callers that excludes one of the others.
    pub(super) fn refuse_conflict(&mut self, others: &[Listen], address: &Listen, place: Range<usize>) {
        let Some(other) = others.iter().find(|other| conflict(address, other)) else { return };
        let (title, help) = if address == other {
            (format!("{address} is listed twice"), "remove one of the two")
        } else {
            (
                format!("{address} and {other} cannot both be listened on"),
                "remove one of the two: 0.0.0.0 is every IPv4 address of this machine, and [::] every address",
            )
        };
        self.error(place, title, help);
    }
}

/// Whether the system lets only one of two addresses be listened on.
pub(super) fn conflict(one: &Listen, other: &Listen) -> bool {
    match (one, other) {
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            one.port() != 0 && one.port() == other.port() && (covers(one, other) || covers(other, one))
        }
        (Listen::Unix(one), Listen::Unix(other)) => resolved(one) == resolved(other),
        _ => false,
    }
}

/// Whether connections to one address also reach the other. IPv6 sockets of bearerd are dual-stack.
fn covers(all: &SocketAddr, one: &SocketAddr) -> bool {
    let scope = |address: &SocketAddr| match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    match (all.ip().to_canonical(), one.ip().to_canonical()) {
        (IpAddr::V6(ip), _) if ip.is_unspecified() => true,
        (IpAddr::V4(ip), IpAddr::V4(_)) if ip.is_unspecified() => true,
        (ip, other) => ip == other && scope(all) == scope(one),
    }
}

/// The path of a file without symlinks in its folder: the same for all spellings. The file need not exist.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let name = path.file_name().map(OsString::from).unwrap_or_default();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::canonicalize(folder).unwrap_or_else(|_| without_dots(folder)).join(name)
}

/// A path without `.` and `..`, for a folder that does not exist.
fn without_dots(path: &Path) -> PathBuf {
    let mut shortest = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if shortest.file_name().is_some_and(|name| name != "..") => {
                shortest.pop();
            }
            Component::ParentDir if shortest.has_root() => {}
            part => shortest.push(part),
        }
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_folder_that_does_not_exist_has_one_path_too() {
        for (path, expected) in [
            ("/no/such/./a", "/no/such/a"),
            ("/no/such/b/../a", "/no/such/a"),
            ("/../no/a", "/no/a"),
            ("no/../../such/no/a", "../such/no/a"),
        ] {
            assert_eq!(resolved(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn addresses_with_a_port_of_the_systems_choice_do_not_conflict() {
        let any: Listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        assert!(!conflict(&any, &any));
    }
}
