//! The direction of imports between the files of `src`: no circle anywhere, and inside a room only downwards.
//!
//! An import is a path that leads from one file to an item of another: in a `use`, a signature or an expression. A
//! declaration (`mod x;`) is none, and a name that another module only re-exports counts as an import of the file that
//! defines it. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// The rooms of `src/proxy`, `src/token` and `src/config` from the top: a file uses its own room and those below it.
const ORDER: [(&str, &[&str]); 3] = [
    (
        "proxy",
        &[
            "listener",
            "worker",
            "service",
            "route",
            "upstream",
            "downstream",
            "callers",
            "auth",
            "body",
            "limits",
            "quota",
            "message",
            "error",
            "peer",
            "joined_writes",
            "vectored",
            "suspension",
        ],
    ),
    (
        "token",
        &[
            "fuzzing",
            "trial",
            "login",
            "api_discovery",
            "refresher",
            "operator",
            "status",
            "source",
            "rotation",
            "client_secrets",
            "progress",
            "demand",
            "replicas",
            "state",
            "endpoint",
            "limiter",
            "help",
            "error",
            "store",
            "access_token",
            "refresh_token_end",
            "jwt",
            "fingerprint",
        ],
    ),
    ("config", &["resolve", "source", "model", "environment"]),
];

/// Absolute module path, without `crate`.
type Module = Vec<String>;

/// The files of a crate and what each imports.
struct Graph {
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

/// The paths that a file names, as absolute segments, and its re-exports.
struct Named<'a> {
    modules: &'a BTreeSet<Module>,
    /// The module that is being read: the file's, or one written inside it.
    here: Module,
    paths: BTreeSet<Module>,
    /// What a `pub use` calls a name, and where it comes from.
    exports: BTreeMap<String, Module>,
}

impl Graph {
    fn of(sources: &[(Module, String)]) -> Self {
        let modules: BTreeSet<Module> = sources.iter().map(|(module, _)| module.clone()).collect();
        let named: BTreeMap<Module, Named<'_>> = sources
            .iter()
            .map(|(module, text)| {
                let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
                let mut named = Named {
                    modules: &modules,
                    here: module.clone(),
                    paths: BTreeSet::new(),
                    exports: BTreeMap::new(),
                };
                named.visit_file(&file);
                (module.clone(), named)
            })
            .collect();
        let edges = named
            .iter()
            .map(|(module, from)| {
                let targets = from.paths.iter().filter_map(|path| definition(path, &named, 8));
                (module.clone(), targets.filter(|target| target != module).collect())
            })
            .collect();
        Self { edges }
    }

    /// Files that import each other, directly or by way of others: the shortest way round from each.
    fn circles(&self) -> Vec<Vec<Module>> {
        let mut found = BTreeMap::new();
        for start in self.edges.keys() {
            if let Some(circle) = self.way_round(start) {
                let members: BTreeSet<_> = circle.iter().cloned().collect();
                found.entry(members).or_insert(circle);
            }
        }
        found.into_values().collect()
    }

    fn way_round(&self, start: &Module) -> Option<Vec<Module>> {
        let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(module) = queue.pop_front() {
            for next in &self.edges[module] {
                if next == start {
                    let mut way = vec![module.clone()];
                    let mut at = module;
                    while at != start {
                        at = before[at];
                        way.push(at.clone());
                    }
                    way.reverse();
                    return Some(way);
                }
                if self.edges.contains_key(next) && !before.contains_key(next) {
                    before.insert(next, module);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Imports against the order of the rooms, and of rooms that the order does not name.
    fn upward(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (house, rooms) in ORDER {
            let floor = |module: &Module| match module.as_slice() {
                [first, room, ..] if first == house => Some(rooms.iter().position(|name| name == room)),
                _ => None,
            };
            for (module, targets) in &self.edges {
                let Some(from) = floor(module) else { continue };
                if from.is_none() {
                    found.push(format!("{} has no place in the order", module.join("::")));
                }
                for target in targets {
                    if let Some(to) = floor(target)
                        && (to.is_none() || to < from)
                    {
                        found.push(format!("{} uses {}", module.join("::"), target.join("::")));
                    }
                }
            }
        }
        found
    }
}

/// The module that defines what a path leads to; `None` for one outside the crate.
fn definition(path: &Module, named: &BTreeMap<Module, Named<'_>>, hops: usize) -> Option<Module> {
    let length = (0..=path.len()).rev().find(|length| named.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(length);
    let exported = rest.first().and_then(|name| named[module].exports.get(name));
    match exported {
        Some(origin) if hops > 0 => definition(&[origin, &rest[1..]].concat(), named, hops - 1),
        _ => Some(module.to_vec()),
    }
}

impl Named<'_> {
    /// The absolute form of a path, if it is one of this crate.
    fn absolute(&self, segments: &[String]) -> Option<Module> {
        let mut at = self.here.clone();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Module::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let is_child = self.modules.contains(&[&at[..], &[child.to_owned()]].concat());
                return is_child.then(|| [&at[..], rest].concat());
            }
        }
        Some([&at[..], rest].concat())
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String], is_public: bool) {
        let with = |name: &dyn ToString| [prefix, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &with(&path.ident), is_public),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, is_public);
                }
                return;
            }
            UseTree::Glob(_) => (prefix.to_vec(), None),
            UseTree::Name(name) if name.ident == "self" => (prefix.to_vec(), prefix.last().cloned()),
            UseTree::Name(name) => (with(&name.ident), Some(name.ident.to_string())),
            UseTree::Rename(rename) => (with(&rename.ident), Some(rename.rename.to_string())),
        };
        let Some(absolute) = self.absolute(&path) else { return };
        match name {
            Some(name) if is_public => drop(self.exports.insert(name, absolute)),
            _ => drop(self.paths.insert(absolute)),
        }
    }
}

impl<'ast> Visit<'ast> for Named<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.content.is_some() {
            self.here.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.here.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    /// A restriction such as `pub(in crate::config)` is no import.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1
            && let Some(absolute) = self.absolute(&segments)
        {
            self.paths.insert(absolute);
        }
        visit::visit_path(self, path);
    }
}

/// The production files of `src`, by module.
fn sources() -> Vec<(Module, String)> {
    let files = crate::tidy::production_sources("src").filter(|(path, _)| {
        !path.iter().any(|part| part == "tests" || part == "fixture.rs")
            && path.file_name().is_none_or(|name| name != "main.rs")
    });
    files.map(|(path, text)| (module(&path), text)).collect()
}

fn module(path: &Path) -> Module {
    let inside = path.strip_prefix("src").unwrap().with_extension("");
    let mut module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let circles = Graph::of(&sources()).circles();
    let lines: Vec<String> = circles
        .iter()
        .map(|circle| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(" → "))
        .collect();
    assert!(lines.is_empty(), "{} circles:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn inside_a_room_imports_point_down() {
    let upward = Graph::of(&sources()).upward();
    assert!(upward.is_empty(), "{} imports against the order:\n{}", upward.len(), upward.join("\n"));
}

/// A crate with these files.
fn planted(files: &[(&str, &str)]) -> Graph {
    let sources: Vec<_> = files
        .iter()
        .map(|(module, text)| {
            (
                module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect(),
                (*text).to_owned(),
            )
        })
        .collect();
    Graph::of(&sources)
}

#[test]
fn a_planted_circle_is_found_whatever_form_its_imports_have() {
    for back in [
        "use crate::a::A;",
        "use super::{c, a::A};",
        "fn f(a: &super::a::A) {}",
        "fn f() { crate::a::run() }",
    ] {
        let graph =
            planted(&[("", "mod a; mod b; mod c;"), ("a", "use super::b::B;"), ("b", back), ("c", "")]);
        assert_eq!(graph.circles(), [["a", "b"].map(|name| vec![name.to_owned()])], "{back}");
    }
    let through_a_re_export = planted(&[
        ("", "mod a; mod b;"),
        ("a", "mod c; pub use c::C;"),
        ("a::c", "use crate::b::B;"),
        ("b", "use crate::a::C;"),
    ]);
    assert_eq!(through_a_re_export.circles().len(), 1);
}

#[test]
fn declarations_re_exports_and_tests_are_no_circle() {
    let graph = planted(&[
        ("", "mod a; mod b;"),
        ("a", "mod c; pub use c::C; pub struct A;"),
        ("a::c", "use super::A;"),
        ("b", "use crate::a::A; #[cfg(test)] mod tests { use crate::a::C; }"),
    ]);
    assert_eq!(graph.circles(), Vec::<Vec<Module>>::new());
}

#[test]
fn a_restricted_visibility_is_no_import() {
    let graph = planted(&[("", ""), ("a", "use self::b::B;"), ("a::b", "pub(in crate::a) struct B;")]);
    assert_eq!(graph.circles(), Vec::<Vec<Module>>::new());
}

#[test]
fn an_import_against_the_order_is_found() {
    let graph = planted(&[
        ("proxy::service", "use crate::proxy::error::E;"),
        ("proxy::error", ""),
        ("proxy::peer", "use crate::proxy::error::E;"),
        ("proxy::attic", ""),
    ]);
    assert_eq!(graph.upward(), ["proxy::attic has no place in the order", "proxy::peer uses proxy::error"]);
}
