//! What a view looks like to people.

use serde::Serialize;

use super::{Choice, Member, View};
use crate::upstream::Moment;
use crate::upstream::breaker::State;

/// An upstream as it is picked from now.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// How an endpoint is chosen, as in the revision.
    pub balance: &'static str,
    /// The priority that gets the traffic; absent without endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_priority: Option<u8>,
    /// Whether so few endpoints can be used that all of them are.
    pub panic: bool,
    /// Its endpoints, in the order of the revision.
    pub endpoints: Vec<MemberFacts>,
}

/// An endpoint of it.
#[derive(Debug, Serialize)]
pub struct MemberFacts {
    /// As in the revision, with the address behind a name.
    pub address: String,
    /// Where it is connected to; absent for a name that was not looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// Whether it gets traffic as things are.
    pub usable: bool,
    /// Why it does not, or gets less than its weight says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// Its share in percent of what is chosen by weight. Requests in flight and response times come on top.
    pub share_percent: f64,
    /// Weight as in the revision, or as DNS says.
    pub weight: u32,
    /// Priority.
    pub priority: u8,
    /// Whether it stands in the gateway's zone; absent if either does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Its breaker: `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// What active checks say; absent without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Requests that are there now.
    pub in_flight: u32,
    /// Requests that wait for room.
    pub waiting: u32,
    /// Open connections.
    pub connections: u32,
    /// Average time to an answer in milliseconds, as `least_response_time` sees it; absent if nothing recent is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

impl View {
    /// Says what would happen to a request now, and why. Not for request threads.
    #[must_use]
    pub fn describe(&self, now: Moment) -> Facts {
        let total: f64 = self
            .candidates
            .all()
            .iter()
            .map(|candidate| f64::from(candidate.share))
            .sum();
        let mut endpoints: Vec<MemberFacts> = self.members.iter().map(|member| self.fact(member, now)).collect();
        for candidate in self.candidates.all() {
            let Some(facts) = endpoints.get_mut(usize::from(candidate.position)) else {
                continue;
            };
            facts.usable = true;
            let share = f64::from(candidate.share) / total;
            if share.is_finite() {
                facts.share_percent = (share * 1000.0).round() / 10.0;
            }
            if candidate.part < 1.0 {
                let part = (candidate.part * 100.0).round();
                facts.because.push(format!("slow start: {part} % of its weight so far"));
            }
            if candidate.far {
                facts.because.extend(self.distance(candidate.share));
            }
        }
        Facts {
            balance: self.algorithm,
            active_priority: self.priority,
            panic: self.panic,
            endpoints,
        }
    }

    fn fact(&self, member: &Member, now: Moment) -> MemberFacts {
        let endpoint = &member.endpoint;
        let (breaker, healthy) = (endpoint.breaker().state(), endpoint.health().is_up());
        let address = endpoint.address();
        let mut because = Vec::new();
        match breaker {
            State::Closed if endpoint.breaker().is_held() => {
                because.push("it fails, but as many others are taken out as may be".to_owned());
            }
            State::Closed => {}
            State::Open => because.push("its breaker is open: too many requests failed".to_owned()),
            State::HalfOpen => {
                because.push(
                    "its breaker is half-open: one request at a time finds out whether it works again".to_owned(),
                );
            }
        }
        if self.checked && !healthy {
            because.push("its health checks fail".to_owned());
        }
        if let Some(active) = self.priority.filter(|active| *active != member.priority) {
            because.push(format!("priority {active} gets the traffic"));
        }
        MemberFacts {
            address: member.label.to_string(),
            resolved: (!address.ip().is_unspecified()).then(|| address.to_string()),
            usable: false,
            because,
            share_percent: 0.0,
            weight: member.weight,
            priority: member.priority,
            local: member.local,
            breaker: breaker.as_str(),
            healthy: self.checked.then_some(healthy),
            in_flight: endpoint.in_flight(),
            waiting: endpoint.waiting(),
            connections: endpoint.sockets().open(),
            latency_ms: endpoint
                .latency()
                .micros(now)
                .map(|micros| (micros / 10.0).round() / 100.0),
        }
    }

    /// What another zone means for an endpoint with this share.
    fn distance(&self, share: f32) -> Option<String> {
        match &self.choice {
            Choice::LeastResponseTime { penalty, .. } => {
                Some(format!("another zone: its answers count {} ms more", penalty / 1000.0))
            }
            _ if share == 0.0 => Some("another zone: enough endpoints of the own one can be used".to_owned()),
            _ => None,
        }
    }
}
