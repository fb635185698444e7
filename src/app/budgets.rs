//! The budgets of credentials whose API allows a number of requests, and the tasks that keep them.
//!
//! A budget lasts as long as its credential issues tokens of one principal: a reload keeps what was used. Its task ends when no
//! request uses it any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::{ApiQuota, Caller, Config, Credential};
use crate::proxy::quota::budget::{Budget, Keeper, OnExhausted, Replicas, Rules};
use crate::proxy::quota::ledger::Settings;
use crate::proxy::quota::line::LineKey;
use crate::telemetry::event::Name;
use crate::telemetry::{Event, Events};
use crate::token::replicas::Shared;

/// The budgets in force.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    all: Vec<InForce>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct InForce {
    credential: Arc<Credential>,
    budget: Budget,
    rules: Rules,
}

/// The budgets of a configuration, before anything of them runs or has changed.
#[derive(Debug)]
pub(super) struct PlannedBudgets(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    credential: Arc<Credential>,
    budget: Budget,
    rules: Rules,
    /// The task of a new budget.
    keeper: Option<Keeper>,
}

impl Budgets {
    /// Plans the budgets of a configuration. Those of credentials with tokens of one principal stay.
    pub(super) fn plan(&self, config: &Config, events: &Events, shared: Option<&Shared>) -> PlannedBudgets {
        let with_quota = config.credentials.iter().filter_map(|one| Some((one, one.api_quota?)));
        let planned = with_quota.map(|(credential, quota)| {
            let rules = rules(&quota, config);
            let is_same = |one: &&InForce| {
                one.credential.name == credential.name && one.credential.shares_tokens_with(credential)
            };
            let (budget, keeper) = match self.all.iter().find(is_same) {
                Some(InForce { budget, .. }) => (budget.clone(), None),
                None => {
                    let on_exhausted = on_exhausted(credential, quota.per, events);
                    let (budget, keeper) =
                        Budget::new(&credential.name, &rules, on_exhausted, shared.map(replicas));
                    (budget, Some(keeper))
                }
            };
            Planned { credential: Arc::clone(credential), budget, rules, keeper }
        });
        PlannedBudgets(planned.collect())
    }

    /// Puts the first budgets in force.
    pub(super) fn start(&mut self, planned: PlannedBudgets) {
        for Planned { credential, budget, rules, keeper } in planned.0 {
            if let Some(keeper) = keeper {
                self.tasks.spawn(keeper.run());
            }
            self.all.push(InForce { credential, budget, rules });
        }
    }

    /// Puts the planned budgets in force, in the place of those of before.
    pub(super) async fn change(&mut self, planned: PlannedBudgets) {
        let before = std::mem::take(&mut self.all);
        for Planned { budget, rules, .. } in &planned.0 {
            let is_changed = |one: &InForce| one.budget.is(budget) && one.rules != *rules;
            if before.iter().any(is_changed) {
                budget.configure(rules.clone()).await;
            }
        }
        self.start(planned);
    }

    /// Waits until a task panics. A task that ends keeps the budget of a credential that is gone.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    pub(super) async fn one_died(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return format!("a budget: {error}"),
                None => std::future::pending().await,
            }
        }
    }
}

impl PlannedBudgets {
    /// The budget of the credential of this name.
    pub(super) fn of(&self, credential: &str) -> Option<&Budget> {
        self.0.iter().find(|one| one.credential.name == credential).map(|one| &one.budget)
    }
}

fn rules(quota: &ApiQuota, config: &Config) -> Rules {
    let workers = u32::try_from(config.server.workers).unwrap_or(u32::MAX);
    let ApiQuota { requests, per, learn, wait } = *quota;
    let settings = Settings { requests: requests.get(), per, wait, workers };
    let line = |caller: &Caller| (LineKey::Caller(caller.name.as_str().into()), u32::from(caller.weight));
    Rules { settings, learns: learn, callers: config.callers.iter().map(line).collect() }
}

fn on_exhausted(credential: &Credential, per: Duration, events: &Events) -> OnExhausted {
    let (name, events) = (Arc::<str>::from(credential.name.as_str()), events.clone());
    Box::new(move |turn| {
        let detail = format!(
            "the requests that the API allows within {} s are used up; the next turn of the refused caller comes in {} s",
            per.as_secs_f64(),
            turn.as_secs_f64().ceil()
        );
        events.record(Event {
            credential: Some(Arc::clone(&name)),
            reason: Some("api_quota_exhausted"),
            detail: Some(detail),
            ..Event::now(Name::QuotaExhausted)
        });
    })
}

fn replicas(shared: &Shared) -> Replicas {
    let shared = shared.clone();
    Box::new(move || u32::try_from(shared.status().replicas).unwrap_or(u32::MAX))
}
