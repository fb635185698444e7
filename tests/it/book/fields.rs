//! Fields of the log, the audit trail and the status: each is in the documentation, and what is there exists.

use std::collections::BTreeSet;

use bearerd::telemetry::event::Name;
use bearerd::telemetry::record::Record;

use super::markdown::Page;

type Names = BTreeSet<String>;

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> Names {
    names.into_iter().map(str::to_owned).collect()
}

/// The names in the first column of the first table below a heading.
fn documented(page: &Page, heading: &str) -> Names {
    let text = format!("\n{}", page.text);
    let (_, below) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rows =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let first = rows.skip(2).map(|row| row.split('|').nth(1).unwrap());
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The names before `=` in the call that logs a line of the access log.
fn logged(source: &str) -> Names {
    let (_, call) = source.split_once("target: \"bearerd::access\",").unwrap();
    let (fields, _) = call.split_once("\"request\"").unwrap();
    let own = names(fields.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(name, _)| name));
    own.into_iter().chain(names(["timestamp", "level", "target", "message"])).collect()
}

/// The public fields of a structure.
fn fields(source: &str, structure: &str) -> Names {
    let (_, body) = source.split_once(&format!("pub struct {structure} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    names(
        body.lines()
            .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
            .map(|(name, _)| name),
    )
}

#[test]
fn the_members_of_the_access_log_are_documented_and_back() {
    let logged = logged(include_str!("../../../src/telemetry/access/line.rs"));
    assert!(logged.len() > 20, "{logged:?}");
    assert_eq!(documented(&Page::named("docs/operate/logs.md"), "## The access log"), logged);
}

#[test]
fn the_members_and_events_of_the_audit_trail_are_documented_and_back() {
    let page = Page::named("docs/operate/audit.md");
    let event = bearerd::telemetry::Event::now(Name::DaemonStarted);
    let record = serde_json::to_value(Record::new(&event, "x", None)).unwrap();
    let members = names(record.as_object().unwrap().keys().map(String::as_str));
    assert_eq!(documented(&page, "## Lines"), members);
    assert_eq!(documented(&page, "## Events"), names(Name::ALL.iter().map(|name| name.as_str())));
}

#[test]
fn the_members_of_the_status_are_documented_and_back() {
    let source = include_str!("../../../src/admin/status.rs");
    let page = Page::named("docs/operate/status.md");
    assert_eq!(documented(&page, "# Status"), fields(source, "Status"));
    assert_eq!(documented(&page, "### Members of a credential"), fields(source, "Credential"));
    let shared = include_str!("../../../src/token/replicas/handle.rs");
    assert_eq!(documented(&page, "### Members of `shared`"), fields(shared, "SharedStatus"));
}

#[test]
fn a_field_that_is_missing_is_found() {
    let page =
        Page::new("x.md", "\n## A\n\n| field | meaning |\n| --- | --- |\n| `a`, `b` | `no` |\n\n| `c` | |\n");
    assert_eq!(documented(&page, "## A"), names(["a", "b"]));
    assert_eq!(fields("pub struct S {\n    /// x\n    pub a: u8,\n    b: u8,\n}\n", "S"), names(["a"]));
}
