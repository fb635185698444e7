//! The shape of the book: pages, links, lengths.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use bearerd::documentation::FOLDER;

use super::markdown::{Page, anchors, headings, links, pages, root};

/// The most characters of a line, which a table may need.
const LONGEST_LINE: usize = 400;
/// The most lines without a heading.
const LONGEST_SECTION: usize = 80;
/// The most lines of the README.
const LONGEST_README: usize = 120;

/// The address of a file of the repository, for links that leave the book.
fn repository() -> &'static str {
    FOLDER.strip_suffix("docs").unwrap()
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, part| {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
        normal
    })
}

/// The links of a page that lead nowhere, or out of the book by a relative path.
fn broken(page: &Page) -> Vec<String> {
    let mut broken = Vec::new();
    for (line, target) in links(&page.text) {
        let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let path = match file.strip_prefix(repository()) {
            Some(path) => PathBuf::from(path),
            None if file.contains("://") || file.starts_with("mailto:") => continue,
            None if file.is_empty() => page.path.clone(),
            None => normal(&page.path.parent().unwrap_or(Path::new("")).join(file)),
        };
        let is_outside = page.path.starts_with("docs") && !path.starts_with("docs");
        let why = if is_outside && !file.contains("://") {
            "leaves the book: use the address of the repository"
        } else if path != page.path && !root().join(&path).exists() {
            "no such file"
        } else if !anchor.is_empty() && !has_anchor(page, &path, anchor) {
            "no such heading"
        } else {
            continue;
        };
        broken.push(format!("{}:{line}: {target}: {why}", page.path.display()));
    }
    broken
}

fn has_anchor(page: &Page, path: &Path, anchor: &str) -> bool {
    let text = if path == page.path {
        page.text.clone()
    } else {
        std::fs::read_to_string(root().join(path)).unwrap_or_default()
    };
    anchors(&text).contains(anchor)
}

#[test]
fn every_link_and_anchor_resolves() {
    let broken: Vec<String> = pages().iter().flat_map(broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    for target in ["gone.md", "README.md#gone", "#gone", "../Cargo.toml"] {
        let page = Page::new("docs/x.md", &format!("# Here\n\n[text]({target})\n"));
        assert_eq!(broken(&page).len(), 1, "{target}");
    }
    let whole = Page::new(
        "docs/x.md",
        &format!("# Here\n\n[a](#here) [b](README.md) [c]({}Cargo.toml)\n", repository()),
    );
    assert_eq!(broken(&whole), [""; 0]);
}

fn too_long(page: &Page) -> Vec<String> {
    let lines = page.lines().into_iter().map(|line| (line.number, line.text.chars().count()));
    let long = lines.filter(|(_, length)| *length > LONGEST_LINE);
    long.map(|(line, length)| format!("{}:{line}: {length} characters", page.path.display())).collect()
}

/// The places where more than the allowed number of lines have no heading.
fn without_headings(page: &Page) -> Vec<String> {
    let end = page.text.lines().count() + 1;
    let starts: Vec<usize> = std::iter::once(1)
        .chain(headings(&page.text).into_iter().map(|(line, ..)| line))
        .chain([end])
        .collect();
    let gaps = starts.windows(2).filter(|pair| pair[1] - pair[0] > LONGEST_SECTION);
    gaps.map(|pair| format!("{}:{}: {} lines", page.path.display(), pair[0], pair[1] - pair[0])).collect()
}

#[test]
fn no_line_is_longer_than_400_characters() {
    let long: Vec<String> = pages().iter().flat_map(too_long).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
    assert_eq!(too_long(&Page::new("x.md", &format!("short\n{}\n", "x".repeat(401)))).len(), 1);
}

#[test]
fn a_page_has_a_heading_at_least_every_80_lines() {
    let found: Vec<String> = pages().iter().flat_map(without_headings).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(without_headings(&Page::new("x.md", &format!("# A\n{}", "x\n".repeat(80)))).len(), 1);
}

#[test]
fn the_readme_is_short() {
    let lines = Page::named("README.md").text.lines().count();
    assert!(lines <= LONGEST_README, "{lines} lines");
}

/// The pages of the book, and those that the summary lists.
fn listed(summary: &str) -> BTreeSet<PathBuf> {
    links(summary).into_iter().map(|(_, target)| Path::new("docs").join(target)).collect()
}

#[test]
fn the_summary_lists_every_page_once() {
    let summary = Page::named("docs/SUMMARY.md");
    let is_page = |page: &Page| page.path.starts_with("docs") && page.path != summary.path;
    let written: BTreeSet<PathBuf> = pages().into_iter().filter(is_page).map(|page| page.path).collect();

    assert_eq!(listed(&summary.text), written);
    assert_eq!(links(&summary.text).len(), written.len(), "a page is listed twice");
    assert_eq!(listed("- [x](a/b.md)"), BTreeSet::from([PathBuf::from("docs/a/b.md")]));
}

/// Every page can be reached from the front page of the book.
#[test]
fn the_front_page_links_every_page() {
    let front = Page::named("docs/README.md");
    let mut linked = listed(&front.text);
    linked.insert(front.path);
    let missing: Vec<PathBuf> =
        listed(&Page::named("docs/SUMMARY.md").text).difference(&linked).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The addresses that bearerd's own texts name, besides those of codes and exit codes.
#[test]
fn the_addresses_in_texts_resolve() {
    let addresses = [
        bearerd::documentation::front_page(),
        bearerd::documentation::of_warnings(),
        bearerd::documentation::of_shared_store(),
    ];
    let links: Vec<String> = addresses.iter().map(|address| format!("[x]({address})")).collect();
    assert_eq!(broken(&Page::new("docs/x.md", &links.join("\n"))), [""; 0]);
}
