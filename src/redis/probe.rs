//! What `tollgate check --connect` asks: whether every server is there, and fit for counters.

use ::redis::Pipeline;
use tokio::time::timeout;

use super::connect::{Dial, Facts, field};
use super::settings::{Endpoint, Settings, SettingsError};
use super::slot::SLOTS;
use super::topology::masters;

/// The oldest server that is known to work.
const OLDEST: (u32, u32) = (6, 0);

/// What was found out. Every text begins with the server's name, and none holds a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// What is as it should be.
    pub facts: Vec<String>,
    /// What works, but may cost counters.
    pub warnings: Vec<String>,
    /// What does not work.
    pub errors: Vec<String>,
}

/// Connects to every URL once and looks at who answers; in a cluster also to the masters, under the addresses that the
/// cluster announces. Takes a second or so for each that does not answer.
///
/// # Errors
/// When settings contradict each other, or the certificates can not be read.
pub async fn probe(settings: &Settings) -> Result<Description, SettingsError> {
    let dial = Dial::new(settings)?;
    let mut description = Description::default();
    for url in &settings.urls {
        if let Err(error) = look(&dial, &url.endpoint, &mut description).await {
            description.errors.push(format!("redis {url}: {error}"));
        }
    }
    if dial.cluster && description.errors.is_empty() {
        look_at_cluster(&dial, settings, &mut description).await;
    }
    Ok(description)
}

/// Seeds are reached by the operator's addresses, counters by those that the cluster announces.
async fn look_at_cluster(dial: &Dial, settings: &Settings, description: &mut Description) {
    let Some(seed) = settings.urls.first() else { return };
    match masters(&seed.endpoint, dial).await {
        Ok((masters, unassigned)) => {
            if unassigned > 0 {
                let text = format!("redis cluster: {unassigned} of {SLOTS} slots have no server");
                description.errors.push(text);
            }
            for master in masters {
                if let Err(trouble) = dial.open(&master).await {
                    description.errors.push(format!(
                        "redis {master}: this is where the cluster says that a master is, but: {}",
                        trouble.text
                    ));
                } else {
                    description.facts.push(format!("redis {master}: master of the cluster"));
                }
            }
        }
        Err(trouble) => description.errors.push(format!("redis cluster: {}", trouble.text)),
    }
}

async fn look(dial: &Dial, endpoint: &Endpoint, description: &mut Description) -> Result<(), String> {
    let mut opened = dial.open(endpoint).await.map_err(|trouble| trouble.text)?;
    let facts = std::mem::take(&mut opened.facts);
    let shown = |fact: &Option<String>| fact.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut sections = Pipeline::new();
    sections.cmd("INFO").arg("memory");
    sections.cmd("INFO").arg("persistence");
    let answer = opened.connection.send_packed_commands(&sections, 0, sections.len());
    let answers = match timeout(dial.response_timeout, answer).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no reply within {:?}", dial.response_timeout)),
    };
    let policy = field(&answers, "maxmemory_policy");
    description.facts.push(format!(
        "redis {endpoint}: version {}, mode {}, role {}, maxmemory-policy {}, round trip {:?}",
        shown(&facts.version),
        shown(&facts.mode),
        shown(&facts.role),
        shown(&policy),
        opened.received.saturating_duration_since(opened.sent),
    ));
    let mut warn = |text: String| description.warnings.push(format!("redis {endpoint}: {text}"));
    if facts.identity.is_none() {
        warn(
            "it does not say who it is, so that after every reconnection its data counts as changed; let the user run \
             INFO"
                .to_owned(),
        );
    }
    if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
        warn(format!(
            "maxmemory-policy is {policy}, so that counters may be evicted and limits begin anew; set it to noeviction"
        ));
    }
    if field(&answers, "aof_enabled").as_deref() == Some("0") {
        warn(
            "appendonly is off, so that a restart forgets what was used up; for limits per day or month set \
             appendonly yes"
                .to_owned(),
        );
    }
    judge(&facts, dial.cluster)
}

/// Why a server cannot be used.
fn judge(facts: &Facts, cluster: bool) -> Result<(), String> {
    if let Some(version) = &facts.version
        && number(version).is_some_and(|version| version < OLDEST)
    {
        return Err(format!(
            "version {version} is too old; {}.{} is needed",
            OLDEST.0, OLDEST.1
        ));
    }
    match facts.objection(cluster) {
        // A replica of a cluster is as good a seed as any.
        Some(_) if cluster && facts.role.as_deref() == Some("slave") => Ok(()),
        Some(trouble) => Err(trouble.text),
        None => Ok(()),
    }
}

fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number("5.0.14").unwrap() < OLDEST);
        assert!(number("6.0.0").unwrap() >= OLDEST);
        assert!(number("10.2.1").unwrap() >= OLDEST);
        assert_eq!(number("unstable"), None);
    }
}
