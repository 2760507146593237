//! Labels: a gateway takes the APIs that carry none, or one of its own.

use super::{ApiPlaces, Loaded, Revision};

impl Loaded {
    /// What a gateway with these labels takes of it: APIs with other labels are left out, and subscriptions to them.
    #[must_use]
    pub fn for_labels(mut self, labels: &[String]) -> Self {
        let takes = |wanted: &[String]| wanted.is_empty() || wanted.iter().any(|label| labels.contains(label));
        let Revision { apis, applications, .. } = &mut self.revision;
        if apis.iter().all(|api| takes(&api.labels)) {
            return self;
        }
        let mut kept = 0_usize;
        let positions: Vec<Option<usize>> = apis
            .iter()
            .map(|api| {
                takes(&api.labels).then(|| {
                    kept += 1;
                    kept - 1
                })
            })
            .collect();
        let position = |old: usize| positions.get(old).copied().flatten();
        apis.retain(|api| takes(&api.labels));
        for application in applications {
            application.subscriptions = std::mem::take(&mut application.subscriptions)
                .into_iter()
                .filter_map(|mut subscription| {
                    subscription.api = position(subscription.api)?;
                    Some(subscription)
                })
                .collect();
        }
        self.places = std::mem::take(&mut self.places)
            .into_iter()
            .enumerate()
            .filter_map(|(old, places): (usize, ApiPlaces)| position(old).map(|_| places))
            .collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::document::Environment;
    use crate::revision::{Loaded, parse};

    const TEXT: &str = r#"
version: 1
upstreams: [{ name: u, endpoints: [{ address: "127.0.0.1:1" }] }]
plans: [{ name: gold, limits: [] }]
apis:
  - { name: inside, base_path: /inside, auth: none, upstream: u, labels: [inner] }
  - { name: everywhere, base_path: /everywhere, auth: none, upstream: u }
  - { name: both, base_path: /both, auth: none, upstream: u, labels: [inner, outer] }
applications:
  - name: mobile
    subscriptions: [{ api: inside, plan: gold }, { api: both, plan: gold }]
"#;

    fn seen_by(labels: &[&str]) -> Loaded {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        parse(TEXT, "r.yaml", Path::new(""), &environment)
            .unwrap()
            .for_labels(&labels)
    }

    #[test]
    fn a_gateway_takes_what_has_no_label_or_one_of_its_own_and_subscriptions_still_name_the_same_apis() {
        for (labels, expected, subscribed) in [
            (
                &["inner", "outer"][..],
                &["inside", "everywhere", "both"][..],
                &["inside", "both"][..],
            ),
            (&["outer"], &["everywhere", "both"], &["both"]),
            (&["Default"], &["everywhere"], &[]),
        ] {
            let loaded = seen_by(labels);
            let apis = &loaded.revision.apis;
            let names: Vec<&str> = apis.iter().map(|api| api.name.as_str()).collect();
            assert_eq!(names, expected);
            assert_eq!(loaded.places.len(), apis.len());
            let found: Vec<&str> = loaded.revision.applications[0]
                .subscriptions
                .iter()
                .map(|subscription| apis[subscription.api].name.as_str())
                .collect();
            assert_eq!(found, subscribed);
        }
    }
}
