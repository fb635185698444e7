//! The daemon's configuration as a table: a test sets keys, and the harness adds defaults for the keys that are absent.

use std::fmt::Write as _;

use toml::{Table, Value};

/// A configuration that is being put together.
///
/// Keys are given as lines of TOML. A key that is given twice has its later value; tables are merged.
#[derive(Clone, Debug, Default)]
pub struct Configuration(Table);

impl Configuration {
    /// Sets keys of a section, such as `server.limits`.
    ///
    /// # Panics
    ///
    /// If the lines are not TOML.
    pub fn set(&mut self, section: &str, lines: &str) {
        merge(&mut self.0, parse(&format!("[{section}]\n{lines}")));
    }

    /// Sets keys of the last route. Lines from `[[routes]]` on are further routes, and lines below another section's head
    /// are keys of that section.
    ///
    /// # Panics
    ///
    /// If the lines are not TOML.
    pub fn add(&mut self, lines: &str) {
        let mut added = parse(&format!("[[routes]]\n{lines}"));
        let Some(Value::Array(mut routes)) = added.remove("routes") else { unreachable!("there is one") };
        let further = routes.split_off(1);
        merge(self.last_route(), table(routes.remove(0)));
        self.routes().extend(further);
        merge(&mut self.0, added);
    }

    /// Sets a key of a section, unless the key is there.
    pub fn set_default(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let section = section.split('.').fold(&mut self.0, |table, name| {
            let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().expect("a section is a table")
        });
        section.entry(key).or_insert_with(|| value.into());
    }

    /// Sets a key of the first route, unless the key is there.
    pub fn set_route_default(&mut self, key: &str, value: impl Into<Value>) {
        self.last_route();
        let first = self.routes()[0].as_table_mut().expect("a route is a table");
        first.entry(key).or_insert_with(|| value.into());
    }

    /// The value of a section's key.
    pub fn get(&self, section: &str, key: &str) -> Option<&Value> {
        let section = section.split('.').try_fold(&self.0, |table, name| table.get(name)?.as_table())?;
        section.get(key)
    }

    /// The value of the first route's key.
    pub fn get_route(&self, key: &str) -> Option<&Value> {
        self.0.get("routes")?.get(0)?.get(key)
    }

    /// The file: a line for each key, the sections in a fixed order, and the routes at the end.
    ///
    /// Tests that edit the file rely on this.
    pub fn render(&self) -> String {
        let mut file = String::new();
        for name in
            ["server", "health", "admin", "audit", "log", "tracing", "callers", "credentials", "pools"]
        {
            let Some(section) = self.0.get(name).and_then(Value::as_table) else { continue };
            let (tables, keys): (Vec<_>, Vec<_>) =
                section.iter().partition(|(_, value)| value.is_table() && has_own_head(name));
            if !matches!(name, "callers" | "credentials" | "pools") {
                lines(&mut file, &format!("[{name}]"), keys);
            }
            // The limits are the last of `server`.
            let (last, tables): (Vec<_>, Vec<_>) = tables.into_iter().partition(|(key, _)| *key == "limits");
            for (key, table) in tables.into_iter().chain(last) {
                lines(&mut file, &format!("[{name}.{key}]"), table.as_table().into_iter().flatten());
            }
        }
        for list in ["routes", "webhooks"] {
            for table in self.0.get(list).and_then(Value::as_array).into_iter().flatten() {
                lines(&mut file, &format!("[[{list}]]"), table.as_table().into_iter().flatten());
            }
        }
        let known = [
            "server",
            "health",
            "admin",
            "audit",
            "log",
            "tracing",
            "callers",
            "credentials",
            "pools",
            "routes",
            "webhooks",
        ];
        let unknown: Vec<&String> = self.0.keys().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "sections that are not rendered: {unknown:?}");
        file
    }

    fn routes(&mut self) -> &mut Vec<Value> {
        let routes = self.0.entry("routes").or_insert_with(|| Value::Array(Vec::new()));
        routes.as_array_mut().expect("routes are an array")
    }

    fn last_route(&mut self) -> &mut Table {
        let routes = self.routes();
        if routes.is_empty() {
            routes.push(Value::Table(Table::new()));
        }
        routes.last_mut().and_then(Value::as_table_mut).expect("a route is a table")
    }
}

/// Whether a section's tables are sections themselves, and not inline tables.
fn has_own_head(section: &str) -> bool {
    matches!(section, "server" | "callers" | "credentials" | "pools")
}

fn lines<'a>(file: &mut String, head: &str, keys: impl IntoIterator<Item = (&'a String, &'a Value)>) {
    let _ = writeln!(file, "{head}");
    for (key, value) in keys {
        // Inline, tables and arrays too.
        let _ = writeln!(file, "{key} = {value}");
    }
    file.push('\n');
}

fn parse(text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn table(value: Value) -> Table {
    let Value::Table(table) = value else { unreachable!("a route is a table") };
    table
}

/// Later values take the place of earlier ones; tables are merged, and routes appended.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_does_not_replace_a_key_that_is_set() {
        let mut configuration = Configuration::default();
        configuration.set("server", "listen = \"127.0.0.1:1\"");

        configuration.set_default("server", "listen", "127.0.0.1:0");
        configuration.set_default("server", "workers", 2);
        configuration.set_default("log", "format", "json");

        assert_eq!(
            configuration.render(),
            "[server]\nlisten = \"127.0.0.1:1\"\nworkers = 2\n\n[log]\nformat = \"json\"\n\n"
        );
    }

    #[test]
    fn a_key_that_is_set_twice_has_its_later_value() {
        let mut configuration = Configuration::default();
        configuration.set("server.limits", "streams = 1\nheader_bytes = \"8KiB\"");
        configuration.set("server.limits", "streams = 2");

        assert_eq!(configuration.get("server.limits", "streams"), Some(&Value::Integer(2)));
        assert!(configuration.get("server.limits", "header_bytes").is_some());
        assert_eq!(configuration.get("server", "drain"), None);
    }

    #[test]
    fn lines_of_a_route_are_merged_and_further_routes_are_appended() {
        let mut configuration = Configuration::default();
        configuration.add("path = \"/a\"\n[routes.headers]\nset = { x = \"1\" }");
        configuration.add("[routes.headers]\nremove = [\"y\"]\n[[routes]]\npath = \"/b\"");
        configuration.add("[[routes]]\npath = \"/c\"\n[credentials.other]\nclient_id = \"o\"");
        configuration.add("proxy = \"off\"");
        configuration.set_route_default("path", "/");
        configuration.set_route_default("credential", "api");

        assert_eq!(
            configuration.render(),
            "[credentials.other]\nclient_id = \"o\"\n\n\
             [[routes]]\ncredential = \"api\"\nheaders = { remove = [\"y\"], set = { x = \"1\" } }\npath = \"/a\"\n\n\
             [[routes]]\npath = \"/b\"\n\n\
             [[routes]]\npath = \"/c\"\nproxy = \"off\"\n\n"
        );
    }

    #[test]
    fn the_limits_are_the_last_section_of_the_server() {
        let mut configuration = Configuration::default();
        configuration.set("server.limits", "");
        configuration.set("server.tls", "certificate = \"server.pem\"");
        configuration.set("admin", "token = { file = \"admin\" }");

        assert_eq!(
            configuration.render(),
            "[server]\n\n[server.tls]\ncertificate = \"server.pem\"\n\n[server.limits]\n\n\
             [admin]\ntoken = { file = \"admin\" }\n\n"
        );
    }
}
