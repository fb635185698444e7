//! Tests of `[callers.NAME]` and `callers` of routes.

use std::path::Path;

use crate::config::{Checked, Config, Diagnostics, Environment, parse};

const ROUTE: &str = "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n";
/// Client certificates, whose files are missing.
const CLIENT_CA: &str =
    "[server.tls]\ncertificate = \"gone.pem\"\nprivate_key = \"gone.pem\"\nclient_ca = \"gone.pem\"\n";
const HASH: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn read(text: &str) -> Result<Checked, Box<Diagnostics>> {
    parse(Path::new("/etc/bearerd/proxy.toml"), format!("{text}\n{ROUTE}"), &Environment::from([]))
}

fn accepted(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// The problems, except those of missing files.
fn refused(text: &str) -> Vec<String> {
    let problems = read(text).unwrap_err();
    let titles = problems.problems().iter().map(|problem| problem.title.clone());
    titles.filter(|title| !title.contains("cannot read")).collect()
}

#[test]
fn callers_are_sorted_by_name_and_have_a_weight_of_1() {
    let config = accepted(&format!(
        "[callers.crm]\nkey_hash = [\"{HASH}\"]\nweight = 3\n\
         [callers.other]\nnetworks = []\n\
         [callers.billing]\nnetworks = [\"10.1.0.0/16\", \"::ffff:10.2.0.1\"]\n"
    ));
    let names: Vec<&str> = config.callers.iter().map(|caller| caller.name.as_str()).collect();
    assert_eq!(names, ["billing", "crm", "other"]);
    let [billing, crm, other] = &config.callers[..] else { unreachable!() };
    let networks: Vec<String> = billing.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.0.0/16", "10.2.0.1/32"]);
    assert_eq!((billing.weight, crm.weight, other.weight), (1, 3, 1));
    assert_eq!(crm.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), [HASH]);
    assert!(accepted("[callers]").callers.is_empty());
}

#[test]
fn a_caller_needs_something_that_identifies_it_unless_it_is_other() {
    assert_eq!(refused("[callers.billing]"), ["nothing identifies the caller `billing`"]);
    assert_eq!(
        refused("[callers.billing]\nnetworks = []\nweight = 2"),
        ["nothing identifies the caller `billing`"]
    );
    accepted("[callers.other]\nweight = 2");
    assert_eq!(
        refused("[callers.other]\nnetworks = [\"10.0.0.0/8\"]"),
        ["`other` is whoever no other caller is"]
    );
    // An unusable value has been reported.
    assert_eq!(refused("[callers.billing]\nnetworks = 1").len(), 1);
}

#[test]
fn what_identifies_one_caller_identifies_no_second_one() {
    for (key, value, what) in [
        ("networks", "10.0.0.0/8", "network"),
        ("networks", "private", "network"),
        ("key_hash", HASH, "key"),
        ("certificates", "CN=billing", "certificate"),
    ] {
        let text = format!(
            "{CLIENT_CA}[callers.billing]\n{key} = [\"{value}\"]\n[callers.crm]\n{key} = [\"{value}\"]\n"
        );
        let problems = read(&text).unwrap_err();
        let title = format!("the caller `billing` has the same {what}");
        let second = problems.problems().iter().find(|problem| problem.title == title);
        assert!(second.is_some(), "{problems}");
        // Both places are shown.
        let shown = problems.to_string();
        let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
        assert!(shown.contains(&format!("{} |", line("[callers.billing]") + 1)), "{shown}");
    }
    // Of one caller, two networks may overlap; a key is there once.
    accepted("[callers.billing]\nnetworks = [\"private\", \"10.0.0.0/8\", \"10.1.0.0/16\"]");
    let twice = format!("[callers.billing]\nkey_hash = [\"{HASH}\", \"{}\"]", HASH.replace("9f", "9F"));
    assert_eq!(refused(&twice), ["the caller `billing` has the same key"]);
    accepted("[callers.a]\nnetworks = [\"10.0.0.0/8\"]\n[callers.b]\nnetworks = [\"10.1.0.0/16\"]");
}

#[test]
fn a_key_in_the_place_of_its_hash_is_refused_and_not_shown() {
    for wrong in ["hunter2hunter2hunter2", "sha256:9f86", &HASH[7..]] {
        let problems = read(&format!("[callers.billing]\nkey_hash = [\"{wrong}\"]")).unwrap_err();
        let shown = problems.to_string();
        assert!(shown.contains("not the hash of a key") && shown.contains("keygen --caller"), "{shown}");
        assert!(!shown.contains(wrong), "{shown}");
    }
}

#[test]
fn names_and_weights_have_bounds() {
    for name in ["_other", "a b", "CN=a", "", ".a", "-a"] {
        let text = format!("[callers.\"{name}\"]\nnetworks = [\"10.0.0.0/8\"]");
        assert!(refused(&text)[0].starts_with("the name of a caller has only"), "{name}");
    }
    for weight in ["0", "1001"] {
        let text = format!("[callers.a]\nnetworks = [\"10.0.0.0/8\"]\nweight = {weight}");
        assert_eq!(refused(&text), ["must be between 1 and 1000"]);
    }
    assert_eq!(refused("[callers]\nnetworks = [\"10.0.0.0/8\"]"), ["a caller needs a name"]);
}

#[test]
fn certificates_need_an_authority_and_keys_tls_off_loopback() {
    assert_eq!(
        refused("[callers.a]\ncertificates = [\"CN=a\"]"),
        ["`certificates` needs client certificates"]
    );
    let off_loopback =
        "[server]\nlisten = \"0.0.0.0:8080\"\nhosts = [\"gw\"]\nallow_from = [\"10.0.0.0/8\"]\n";
    let warnings = |text: &str| {
        let warnings = read(text).unwrap().warnings;
        warnings.problems().iter().map(|problem| problem.title.clone()).collect::<Vec<_>>()
    };
    let key = format!("[callers.a]\nkey_hash = [\"{HASH}\"]\n");
    let said = "callers' keys cross the network in the clear".to_owned();
    assert!(warnings(&format!("{off_loopback}{key}")).contains(&said));
    assert!(warnings(&key).is_empty());
    assert!(!warnings(&format!("{off_loopback}[callers.a]\nnetworks = [\"10.0.0.0/8\"]")).contains(&said));
    assert_eq!(warnings("[callers.a]\nnetworks = [\"0.0.0.0/0\"]"), ["every address is in this network"]);
}

#[test]
fn a_route_admits_callers_that_exist_and_names_in_certificates() {
    let of_route = |callers: &str, table: &str| {
        let text = format!("{table}\n{ROUTE}path = \"/x\"\ncallers = {callers}\n");
        parse(Path::new("/etc/bearerd/proxy.toml"), text, &Environment::from([]))
    };
    let table = "[callers.billing]\nnetworks = [\"10.0.0.0/8\"]\n[callers.other]\n";

    let admitted = of_route("[\"billing\"]", table).unwrap().config.routes[0].callers.clone();
    assert_eq!((admitted.named, admitted.certificates.len()), (vec!["billing".to_owned()], 0));
    assert!(of_route("[]", table).unwrap().config.routes[0].callers.is_everyone());
    for (callers, table, title, help) in [
        ("[\"biling\"]", table, "there is no caller `biling`", "did you mean \"billing\"?"),
        ("[\"crm\"]", table, "there is no caller `crm`", "write one of: billing"),
        ("[\"crm\"]", "", "there is no caller `crm`", "add [callers.crm]"),
        ("[\"other\"]", table, "a route cannot require that nobody knows its caller", "remove the name"),
        ("[\"CN=billing\"]", table, "`callers` needs client certificates", "client_ca"),
    ] {
        let problems = of_route(callers, table).unwrap_err();
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert_eq!(problem.title, title);
        assert!(problem.help.as_ref().is_some_and(|text| text.contains(help)), "{problems}");
    }
}

#[test]
fn callers_cannot_be_overridden() {
    let environment = Environment::from([("BEARERD_CALLERS__A__WEIGHT", "2")]);
    let problems = parse(Path::new("proxy.toml"), ROUTE.to_owned(), &environment).unwrap_err();
    assert!(problems.to_string().contains("write callers in the file"), "{problems}");
}
