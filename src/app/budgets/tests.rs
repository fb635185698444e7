//! Tests of which budgets a configuration has, and which a reload keeps.

use std::path::Path;

use super::*;
use crate::config::{Environment, parse};

fn config(callers: &str) -> Config {
    let text =
        format!("{callers}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n");
    parse(Path::new("proxy.toml"), text, &Environment::from([])).unwrap().config
}

fn caller(name: &str, quota: &str) -> String {
    let network = format!("10.{}.0.0/16", name.len());
    format!("[callers.{name}]\nnetworks = [\"{network}\"]\nquota = {quota}\n")
}

#[tokio::test]
async fn a_caller_with_a_quota_has_a_budget_that_a_reload_keeps_by_its_name() {
    let quota = |requests: u32| format!("{{ requests = {requests}, per = \"60s\" }}");
    let events = Events::default();
    let mut budgets = Budgets::default();

    // The names are in their order: billing, crm, sync1.
    let first =
        config(&[caller("crm", "\"\""), caller("billing", &quota(5)), caller("sync1", &quota(7))].concat());
    let planned = budgets.plan(&first, &events, None);
    let of_first = planned.of_callers(&first.callers);
    let limits = |budgets: &[Option<Budget>]| -> Vec<Option<u32>> {
        budgets.iter().map(|one| one.as_ref().map(|budget| budget.status().requests)).collect()
    };
    assert_eq!(limits(&of_first), [Some(5), None, Some(7)]);
    assert!(planned.of("billing").is_none(), "no credential has the budget of a caller");
    budgets.start(planned);

    let second = config(&[caller("billing", &quota(9)), caller("accounts", &quota(7))].concat());
    let planned = budgets.plan(&second, &events, None);
    let [Some(renamed), Some(billing)] = &planned.of_callers(&second.callers)[..] else {
        panic!("{planned:?}")
    };
    assert!(of_first[0].as_ref().is_some_and(|before| before.is(billing)));
    assert!(of_first.iter().flatten().all(|before| !before.is(renamed)));
    budgets.change(planned).await;

    let without = config(&caller("billing", "\"\""));
    assert!(budgets.plan(&without, &events, None).of_callers(&without.callers).is_empty());
}

#[test]
fn requests_of_a_caller_count_for_the_interval_itself_and_nothing_is_learnt() {
    let config = config(&caller("billing", "{ requests = 5, per = \"60s\", wait = \"1s\" }"));
    let rules = of_caller(&config.callers[0], 2).unwrap();
    let (per, wait) = (Duration::from_mins(1), Duration::from_secs(1));
    assert_eq!(rules.settings, Settings { requests: 5, per, margin: Duration::ZERO, wait, workers: 2 });
    assert_eq!((rules.learns, rules.callers), (false, vec![(LineKey::Caller("billing".into()), 1)]));
}
