//! The documents of the repository, and what the tests look for in their Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document: its path in the repository, and its text.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.to_owned() }
    }

    pub(crate) fn named(path: &str) -> Self {
        Self::new(path, &std::fs::read_to_string(root().join(path)).unwrap())
    }

    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        lines(&self.text)
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        blocks(&self.text)
    }
}

/// All documents: those at the top, and the book.
pub(crate) fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    let mut files: Vec<PathBuf> = entries(root()).into_iter().filter(|path| path.is_file()).collect();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        found.push(Page { path: path.strip_prefix(root()).unwrap().to_owned(), text });
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// The documents that tell users what to do: the README and the book.
pub(crate) fn guides() -> Vec<Page> {
    let is_guide = |page: &Page| page.path.starts_with("docs") || page.path.ends_with("README.md");
    pages().into_iter().filter(is_guide).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A line of prose or of code.
#[derive(Debug)]
pub(crate) struct Line<'t> {
    pub(crate) number: usize,
    pub(crate) text: &'t str,
    /// Whether the line is in a fenced block, or is a fence.
    pub(crate) is_fenced: bool,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut is_inside = false;
    text.lines()
        .enumerate()
        .map(|(index, text)| {
            let is_fence = text.trim_start().starts_with("```");
            let is_fenced = is_inside || is_fence;
            is_inside ^= is_fence;
            Line { number: index + 1, text, is_fenced }
        })
        .collect()
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The words after the fence.
    pub(crate) info: Vec<String>,
    /// The number of its first line.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// The line above the fence that is not empty.
    pub(crate) above: String,
}

impl Block {
    pub(crate) fn is(&self, language: &str) -> bool {
        self.info.first().is_some_and(|info| info == language)
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut is_inside, mut indent) = (false, 0);
    let mut above = String::new();
    for line in lines(text) {
        let bare = line.text.trim_start();
        if bare.starts_with("```") {
            is_inside = !is_inside;
            if is_inside {
                indent = line.text.len() - bare.len();
                let info = bare.trim_start_matches('`').split_whitespace().map(str::to_owned).collect();
                let block = Block { info, line: line.number + 1, text: String::new(), above: above.clone() };
                found.push(block);
            }
        } else if is_inside {
            let block = found.last_mut().unwrap();
            block.text.push_str(line.text.get(indent..).unwrap_or_default());
            block.text.push('\n');
        } else if !bare.is_empty() {
            line.text.clone_into(&mut above);
        }
    }
    found
}

/// The headings outside of code: line, level and text.
pub(crate) fn headings(text: &str) -> Vec<(usize, usize, String)> {
    let prose = lines(text).into_iter().filter(|line| !line.is_fenced);
    let heading = |line: Line<'_>| {
        let level = line.text.chars().take_while(|c| *c == '#').count();
        let title = line.text.get(level..)?.strip_prefix(' ')?;
        (1..=6).contains(&level).then(|| (line.number, level, title.trim().to_owned()))
    };
    prose.filter_map(heading).collect()
}

/// The anchors that GitHub and mdBook give the headings.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    headings(text)
        .into_iter()
        .map(|(_, _, title)| {
            let slug = slug(&title);
            let count = seen.entry(slug.clone()).and_modify(|count| *count += 1).or_default();
            if *count == 0 { slug } else { format!("{slug}-{count}") }
        })
        .collect()
}

fn slug(title: &str) -> String {
    // A link in a heading counts by its text.
    let mut plain = String::new();
    let mut rest = title;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((text, after)) = link.split_once("](") else { break };
        let Some((_, after)) = after.split_once(')') else { break };
        plain.push_str(before);
        plain.push_str(text);
        rest = after;
    }
    plain.push_str(rest);
    let kept = plain.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The addresses of links and pictures, each with its line; those in code do not count.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for line in lines(text).into_iter().filter(|line| !line.is_fenced && !line.text.starts_with("    ")) {
        let prose = without_code(line.text);
        for (start, end) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"'), ("href=\"", '"')] {
            for rest in prose.split(start).skip(1) {
                let Some((target, _)) = rest.split_once(end) else { continue };
                found.push((line.number, target.to_owned()));
            }
        }
    }
    found
}

/// A line without what stands between backticks, unless a link's text is code.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

#[test]
fn headings_links_and_blocks_are_found_and_those_in_code_are_not() {
    let text = "# A `code` name\n\n[x](a.md#b) `[no](c)` ![p](d.svg)\n\n```toml fragment\n# no heading\n[x](e)\n```\n\n\
                ## A code name\n- item:\n\n  ```sh\n  two\n  ```\n";

    assert_eq!(headings(text), [(1, 1, "A `code` name".to_owned()), (10, 2, "A code name".to_owned())]);
    assert_eq!(anchors(text), ["a-code-name", "a-code-name-1"].map(str::to_owned).into());
    assert_eq!(links(text), [(3, "a.md#b".to_owned()), (3, "d.svg".to_owned())]);
    let blocks = blocks(text);
    assert_eq!(blocks[0].info, ["toml", "fragment"]);
    assert_eq!(blocks[0].line, 6);
    assert_eq!(blocks[1].text, "two\n");
    assert_eq!(blocks[1].above, "- item:");
}
