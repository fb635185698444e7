//! `[pools.NAME]`: several credentials of one API that are used as one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::{Names, PoolEntry, Resolver};
use crate::config::model::credential::Credential;
use crate::config::model::pool::Pool;
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Key;
use crate::config::source::schema::{self, Pools};

impl Resolver<'_> {
    /// The pools of these credentials, by name; `None` if the section is unusable.
    pub(super) fn pool_table(
        &mut self,
        pools: Key<Pools>,
        names: Option<&Names>,
        credentials: &[Arc<Credential>],
    ) -> Option<BTreeMap<String, PoolEntry>> {
        if matches!(pools, Key::Refused) {
            return None;
        }
        let mut table = BTreeMap::new();
        for (name, pool) in pools.or_default().0 {
            let place = name.span();
            let name = name.into_inner();
            self.check_pool_name(&name, &place, names);
            let entry = match pool {
                Some(pool) => self.pool(&name, place, pool.into_inner(), names, credentials),
                None => PoolEntry { place, credentials: Vec::new(), pool: None },
            };
            table.insert(name, entry);
        }
        Some(table)
    }

    /// The pool of this name.
    pub(super) fn pool_named(&self, name: &str) -> Option<&PoolEntry> {
        self.pools.as_ref()?.get(name)
    }

    /// The name of the credential that stands for what a route's `credential` names: the first one of a pool.
    pub(super) fn first_credential(&self, name: &Spanned<String>) -> Spanned<String> {
        let of_pool = self.pool_named(name.get_ref()).and_then(|pool| pool.credentials.first());
        Spanned::new(name.span(), of_pool.unwrap_or(name.get_ref()).clone())
    }

    /// Warns of pools that are not among the names that routes use, if all of these are known.
    pub(super) fn warn_of_unused_pools(&mut self, are_names_known: bool, used: &BTreeSet<String>) {
        let pools = self.pools.iter().flatten().filter(|(_, entry)| are_names_known && entry.pool.is_some());
        let unused = pools.filter(|(name, _)| !used.contains(*name));
        let unused: Vec<_> = unused.map(|(name, entry)| (name.clone(), entry.place.clone())).collect();
        for (name, place) in unused {
            let help = format!("write credential = \"{name}\" in a route, or remove the pool");
            self.warning(place, format!("no route uses the pool `{name}`"), help);
        }
    }

    fn check_pool_name(&mut self, name: &str, place: &Range<usize>, names: Option<&Names>) {
        self.check_name("pool", name, place);
        if let Some(other) = names.and_then(|names| names.get(name)) {
            let help = "rename one of them: a route's `credential` names either";
            let problem = Problem::error(place.clone(), format!("`{name}` is the name of a credential too"));
            let problem = match other {
                Some(other) => problem.and_at(other.clone()),
                None => problem,
            };
            self.problems.push(problem.help(help));
        }
    }

    fn pool(
        &mut self,
        name: &str,
        place: Range<usize>,
        pool: schema::Pool,
        names: Option<&Names>,
        credentials: &[Arc<Credential>],
    ) -> PoolEntry {
        let mut entry = PoolEntry { place: place.clone(), credentials: Vec::new(), pool: None };
        let help = "write credentials = [\"NAME\", …], with names from [credentials.NAME]";
        if pool.credentials.is_absent() {
            self.error(place, format!("the pool `{name}` has no credentials"), help);
            return entry;
        }
        let Some(texts) = pool.credentials.into_usable() else { return entry };
        if texts.get_ref().is_empty() {
            self.error(texts.span(), format!("the pool `{name}` has no credentials"), help);
            return entry;
        }
        let count = texts.get_ref().len();
        let mut usable: Vec<Arc<Credential>> = Vec::new();
        for text in texts.into_inner().into_iter().flatten() {
            let Some(member) = self.pool_member(&text, names) else { continue };
            if entry.credentials.contains(&member) {
                self.error(text.span(), "the same credential twice", "remove one: each counts once");
                continue;
            }
            usable.extend(credentials.iter().find(|one| one.name == member).cloned());
            entry.credentials.push(member);
        }
        self.refuse_different_apis(&entry);
        if usable.len() == count {
            entry.pool = Some(Arc::new(Pool { name: name.to_owned(), credentials: usable }));
        }
        entry
    }

    fn pool_member(&mut self, text: &Spanned<String>, names: Option<&Names>) -> Option<String> {
        let name = text.get_ref();
        let names = names?;
        if names.contains_key(name) {
            return Some(name.clone());
        }
        let known: Vec<&str> = names.keys().map(String::as_str).collect();
        let help = if known.is_empty() {
            format!("add [credentials.{name}]")
        } else {
            format!("write one of: {}", known.join(", "))
        };
        self.refuse(text.span(), format!("there is no credential `{name}`"), help)
    }

    /// A token of one region is worth nothing in another.
    fn refuse_different_apis(&mut self, entry: &PoolEntry) {
        let mut regions = entry.credentials.iter().filter_map(|name| Some((name, *self.regions.get(name)?)));
        let Some((first, Some(region))) = regions.next() else { return };
        let other =
            regions.find_map(|(name, other)| Some((name, other?)).filter(|(_, other)| *other != region));
        if let Some((name, other)) = other {
            let title =
                format!("`{first}` is of the region {region}, and `{name}` of {other}: a pool is of one API");
            let help = "make a pool for each region";
            self.error(entry.place.clone(), title, help);
        }
    }
}

#[cfg(test)]
mod tests;
