//! The budgets of credentials whose API allows a number of requests, and of callers with a quota, and the tasks that keep them.
//!
//! A budget lasts as long as its credential issues tokens of one principal, or as its caller has a quota: a reload keeps what was
//! used. Its task ends when no request uses it any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::{ApiQuota, Caller, CallerQuota, Config, Credential};
use crate::proxy::quota::budget::{Budget, Exhausted, Keeper, OnExhausted, Replicas, Rules};
use crate::proxy::quota::ledger::{Settings, travel_margin};
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
    owner: Owner,
    budget: Budget,
    rules: Rules,
}

/// Whose requests a budget counts.
#[derive(Clone, Debug)]
enum Owner {
    /// The requests with the tokens of a credential.
    Credential(Arc<Credential>),
    /// The requests of the caller of this name.
    Caller(String),
}

/// The budgets of a configuration, before anything of them runs or has changed.
#[derive(Debug)]
pub(super) struct PlannedBudgets(Vec<Planned>);

#[derive(Debug)]
struct Planned {
    owner: Owner,
    budget: Budget,
    rules: Rules,
    /// The task of a new budget.
    keeper: Option<Keeper>,
}

impl Budgets {
    /// Plans the budgets of a configuration. Those of the same owners stay.
    pub(super) fn plan(&self, config: &Config, events: &Events, shared: Option<&Shared>) -> PlannedBudgets {
        let workers = u32::try_from(config.server.workers).unwrap_or(u32::MAX);
        let of_credentials = config.credentials.iter().filter_map(|credential| {
            let rules = of_api(&credential.api_quota?, &config.callers, workers);
            Some((Owner::Credential(Arc::clone(credential)), rules))
        });
        let of_callers = config
            .callers
            .iter()
            .filter_map(|caller| Some((Owner::Caller(caller.name.clone()), of_caller(caller, workers)?)));
        let planned = of_credentials.chain(of_callers).map(|(owner, rules)| {
            let (budget, keeper) = match self.all.iter().find(|one| one.owner.is(&owner)) {
                Some(InForce { budget, .. }) => (budget.clone(), None),
                None => {
                    let on_exhausted = on_exhausted(&owner, events);
                    let (budget, keeper) =
                        Budget::new(owner.name(), &rules, on_exhausted, shared.map(replicas));
                    (budget, Some(keeper))
                }
            };
            Planned { owner, budget, rules, keeper }
        });
        PlannedBudgets(planned.collect())
    }

    /// Puts the first budgets in force.
    pub(super) fn start(&mut self, planned: PlannedBudgets) {
        for Planned { owner, budget, rules, keeper } in planned.0 {
            if let Some(keeper) = keeper {
                self.tasks.spawn(keeper.run());
            }
            self.all.push(InForce { owner, budget, rules });
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

    /// Waits until a task panics. A task that ends keeps the budget of a credential or a caller that is gone.
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
        let is_its =
            |one: &&Planned| matches!(&one.owner, Owner::Credential(owner) if owner.name == credential);
        self.0.iter().find(is_its).map(|one| &one.budget)
    }

    /// The budgets of these callers, in their order; `None` for one without a quota. Empty if none has one.
    pub(super) fn of_callers(&self, callers: &[Caller]) -> Vec<Option<Budget>> {
        let of_caller = |caller: &Caller| {
            let is_its = |one: &&Planned| matches!(&one.owner, Owner::Caller(owner) if *owner == caller.name);
            self.0.iter().find(is_its).map(|one| one.budget.clone())
        };
        let budgets: Vec<_> = callers.iter().map(of_caller).collect();
        if budgets.iter().all(Option::is_none) { Vec::new() } else { budgets }
    }
}

impl Owner {
    fn name(&self) -> &str {
        match self {
            Self::Credential(credential) => &credential.name,
            Self::Caller(name) => name,
        }
    }

    /// Whether what was used counts for the other one too: credentials with tokens of one principal, callers of one name.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Credential(one), Self::Credential(other)) => {
                one.name == other.name && one.shares_tokens_with(other)
            }
            (Self::Caller(one), Self::Caller(other)) => one == other,
            _ => false,
        }
    }
}

/// The rules of the API's limit for the tokens of a credential, shared out among these callers.
fn of_api(quota: &ApiQuota, callers: &[Caller], workers: u32) -> Rules {
    let ApiQuota { requests, per, learn, wait } = *quota;
    let settings = Settings { requests: requests.get(), per, margin: travel_margin(per), wait, workers };
    let line = |caller: &Caller| (LineKey::Caller(caller.name.as_str().into()), u32::from(caller.weight));
    Rules { settings, learns: learn, callers: callers.iter().map(line).collect() }
}

/// The rules of a caller's own quota: a single line, and nobody else counts.
fn of_caller(caller: &Caller, workers: u32) -> Option<Rules> {
    let CallerQuota { requests, per, wait } = caller.quota?;
    let settings = Settings { requests: requests.get(), per, margin: Duration::ZERO, wait, workers };
    let line = (LineKey::Caller(caller.name.as_str().into()), 1);
    Some(Rules { settings, learns: false, callers: vec![line] })
}

fn on_exhausted(owner: &Owner, events: &Events) -> OnExhausted {
    let (owner, events) = (owner.clone(), events.clone());
    Box::new(move |Exhausted { per, turn }| {
        let (per, turn) = (per.as_secs_f64(), turn.as_secs_f64().ceil());
        let event = Event::now(Name::QuotaExhausted);
        events.record(match &owner {
            Owner::Credential(credential) => Event {
                credential: Some(credential.name.as_str().into()),
                reason: Some("api_quota_exhausted"),
                detail: Some(format!(
                    "the requests that the API allows within {per} s are used up; the next turn of the refused caller comes \
                     in {turn} s"
                )),
                ..event
            },
            Owner::Caller(name) => Event {
                actor: Some(name.clone()),
                reason: Some("caller_quota_exhausted"),
                detail: Some(format!(
                    "the requests that the caller may make within {per} s are used up; its next turn comes in {turn} s"
                )),
                ..event
            },
        });
    })
}

fn replicas(shared: &Shared) -> Replicas {
    let shared = shared.clone();
    Box::new(move || u32::try_from(shared.status().replicas).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
