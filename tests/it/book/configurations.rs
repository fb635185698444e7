//! Every block of TOML in the documentation is a configuration, or a marked part of one.

use bearerd::config::{Environment, parse};
use toml::{Table, Value};

use super::markdown::{Block, Page, guides};

/// 32 bytes in base64: a key, and a secret that no check takes for a mistake.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const URL: &str = "https://hooks.example.com/x";

/// A folder with the files that a configuration may name.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = testkit::pki::Pki::new(&["localhost"]).unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        for (name, content) in [
            ("ca.pem", pki.authority_pem().to_owned()),
            ("server.pem", pki.server().certificate.clone()),
            ("server-key.pem", pki.server().key.clone()),
            ("client.pem", client.cert.pem()),
            ("client-key.pem", client.signing_key.serialize_pem()),
            ("secret", KEY.to_owned()),
            ("url", URL.to_owned()),
            ("assertion", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln".to_owned()),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        std::fs::create_dir(folder.path().join("state")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> Value {
        Value::String(self.folder.path().join(name).to_str().unwrap().to_owned())
    }

    /// Has the paths of the files lead to existing ones, and variables become files. `parents` are the keys above, the
    /// nearest last.
    fn place(&self, table: &mut Table, parents: &[&str]) {
        let parent = parents.last().copied().unwrap_or_default();
        if let (1, Some(name)) = (table.len(), table.remove("env")) {
            table.insert("file".to_owned(), name);
        }
        for (key, value) in table.iter_mut() {
            let place = match key.as_str() {
                "certificate" => Some("server.pem"),
                "private_key" => Some("server-key.pem"),
                "client_certificate" => Some("client.pem"),
                "client_key" => Some("client-key.pem"),
                "client_ca" | "ca_file" => Some("ca.pem"),
                "state_dir" => Some("state"),
                "file" if parent == "assertion" => Some("assertion"),
                "file" if parent == "key" && parents.contains(&"assertion") => Some("client-key.pem"),
                "file" if parent == "url" => Some("url"),
                "file" => Some("secret"),
                _ => None,
            };
            if let Some(name) = place
                && value.is_str()
            {
                *value = self.path(name);
                continue;
            }
            let below: Vec<&str> = parents.iter().copied().chain([key.as_str()]).collect();
            match value {
                Value::Table(table) => self.place(table, &below),
                Value::Array(entries) => {
                    for table in entries.iter_mut().filter_map(Value::as_table_mut) {
                        self.place(table, &below);
                    }
                }
                _ => {}
            }
        }
    }

    /// The errors of a configuration.
    fn errors(&self, mut table: Table) -> Result<(), String> {
        self.place(&mut table, &[]);
        let text = toml::to_string(&table).unwrap();
        let path = self.folder.path().join("proxy.toml");
        parse(&path, text, &Environment::from([])).map(|_| ()).map_err(|problems| problems.to_string())
    }
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// Adds what a configuration needs and a part of one need not have.
fn completed(mut table: Table) -> Table {
    let credentials = table.entry("credentials").or_insert_with(|| Value::Table(Table::new()));
    let credentials = credentials.as_table_mut().unwrap();
    if credentials.is_empty() {
        credentials.insert("api".to_owned(), Value::Table(Table::new()));
    }
    let first = credentials.keys().next().unwrap().clone();
    let route = Table::from_iter([("credential".to_owned(), string(&first))]);
    let routes = table.entry("routes").or_insert_with(|| Value::Array(vec![Value::Table(route)]));
    let mut named = Vec::new();
    for route in routes.as_array_mut().unwrap().iter_mut().filter_map(Value::as_table_mut) {
        route.entry("upstream").or_insert_with(|| string("https://api.example.com"));
        let name = route.entry("credential").or_insert_with(|| string(&first));
        named.push(name.as_str().unwrap().to_owned());
    }
    let credentials = table["credentials"].as_table_mut().unwrap();
    for name in named.into_iter().filter(|name| name != "none") {
        credentials.entry(name).or_insert_with(|| Value::Table(Table::new()));
    }
    for credential in credentials.iter_mut().filter_map(|(_, credential)| credential.as_table_mut()) {
        complete(credential);
    }
    table
}

fn complete(credential: &mut Table) {
    let has = |credential: &Table, key: &str| credential.contains_key(key);
    let text = |credential: &Table, key: &str| {
        credential.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if !["provider", "token_url", "issuer"].into_iter().any(|key| has(credential, key)) {
        credential.insert("token_url".to_owned(), string("https://login.example.com/token"));
    }
    credential.entry("client_id").or_insert_with(|| string("4711"));
    let needs_no_secret =
        ["private_key_jwt", "tls_client_auth", "none"].contains(&text(credential, "client_auth").as_str());
    if !needs_no_secret && text(credential, "grant") != "jwt_bearer" {
        credential.entry("client_secret").or_insert_with(|| string(KEY));
    }
}

/// A block as a table; a part may begin with the keys of a credential.
fn table_of(block: &Block) -> Result<Table, String> {
    let is_credential = block.info.iter().any(|info| info == "credential");
    let text = if is_credential { format!("[credentials.api]\n{}", block.text) } else { block.text.clone() };
    toml::from_str(&text).map_err(|error| error.to_string())
}

fn mistakes(page: &Page) -> Vec<String> {
    let blocks = page.blocks().into_iter().filter(|block| block.is("toml"));
    let mistake = |block: Block| {
        let is_part = block.info.len() > 1;
        let parsed = table_of(&block).map(|table| if is_part { completed(table) } else { table });
        let mistake = parsed.and_then(|table| Files::new().errors(table)).err()?;
        Some(format!("{}:{}: {mistake}", page.path.display(), block.line))
    };
    blocks.filter_map(mistake).collect()
}

/// Blocks marked `toml fragment` lack what `bearerd check` requires, and those marked `toml credential` the section too.
#[test]
fn every_block_of_toml_is_a_valid_configuration() {
    let blocks = guides()
        .iter()
        .map(|page| page.blocks().iter().filter(|block| block.is("toml")).count())
        .sum::<usize>();
    assert!(blocks > 15, "{blocks}");
    let mistakes: Vec<String> = guides().iter().flat_map(mistakes).collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn a_mistake_in_a_block_is_found() {
    for block in [
        "```toml\n[server]\n```\n",
        "```toml fragment\n[sever]\nx = 1\n```\n",
        "```toml credential\nclient_auth = \"bsaic\"\n```\n",
        "```toml fragment\nnot toml\n```\n",
    ] {
        assert_eq!(mistakes(&Page::new("x.md", block)).len(), 1, "{block}");
    }
    let right = "```toml credential\nclient_auth = \"client_secret_post\"\n```\n";
    assert_eq!(mistakes(&Page::new("x.md", right)), [""; 0]);
}
