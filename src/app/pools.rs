//! Pools as `/status` shows them.

use crate::admin::status::{Pool, PoolMember, Time};
use crate::clock::WallTimes;
use crate::config::{self, Config, Route};
use crate::proxy::route::member::{Member, Unready};
use crate::proxy::service::settings::ServiceSettings;

/// The pools that routes use.
pub(super) fn shown(config: &Config, settings: &ServiceSettings) -> Vec<Pool> {
    let times = WallTimes::now(settings.clock);
    let pool = |pool: &config::Pool| {
        let is_user = |route: &&Route| route.pool.as_ref().is_some_and(|used| used.name == pool.name);
        let users: Vec<&Route> = config.routes.iter().filter(is_user).collect();
        let in_table = |route: &&Route| settings.table.find(route.host.as_deref(), &route.path);
        let members: Vec<&Member> =
            users.iter().filter_map(in_table).flat_map(|route| &route.members).collect();
        let member = |name: &str| {
            let is_named = |member: &&Member| member.source.name() == name;
            let of_credential: Vec<&Member> = members.iter().copied().filter(is_named).collect();
            let requests = settings.traffic.member(&pool.name, name).requests();
            shown_member(name, &of_credential, requests, times)
        };
        Pool {
            name: pool.name.clone(),
            routes: users.iter().map(|route| route.name.clone()).collect(),
            members: pool.credentials.iter().map(|credential| member(&credential.name)).collect(),
        }
    };
    config.pools.iter().map(|one| pool(one)).filter(|pool| !pool.routes.is_empty()).collect()
}

/// The credential of this name, which is each of these members of routes.
fn shown_member(name: &str, of_routes: &[&Member], requests: u64, times: WallTimes) -> PoolMember {
    let unready = of_routes.iter().filter_map(|member| member.check_ready(times.moment()).err());
    // A reason without a known end counts as the longest.
    let reason = unready.max_by_key(|reason| (reason.until().is_none(), reason.until()));
    let until = reason.and_then(Unready::until);
    PoolMember {
        credential: name.to_owned(),
        usable: reason.is_none(),
        reason: reason.map(|reason| code(reason).to_owned()),
        until: until.and_then(|until| Time::new(times.at(until))),
        left: of_routes.iter().find_map(|member| member.budget.as_ref()).map(|budget| budget.status().left()),
        requests,
    }
}

const fn code(reason: Unready) -> &'static str {
    match reason {
        Unready::NoToken => PoolMember::NO_TOKEN,
        Unready::Held { .. } => PoolMember::HELD,
        Unready::TokenRejected => PoolMember::TOKEN_REJECTED,
        Unready::Throttled { .. } => PoolMember::THROTTLED,
    }
}
