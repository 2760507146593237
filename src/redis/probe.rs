//! What `tollgate check --connect` asks: whether every server is there, and fit for what it is for.

use ::redis::Pipeline;
use tokio::time::timeout;

use super::connect::{Dial, Facts, field};
use super::settings::{Endpoint, Settings, SettingsError};
use super::slot::SLOTS;
use super::topology::masters;

/// The oldest server that is known to work.
const OLDEST: (u32, u32) = (6, 0);

/// What a deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Counters, none of which may be lost.
    Counters,
    /// Answers that several gateways keep, any of which may be lost.
    Answers,
}

impl Purpose {
    /// What it is called in the file.
    #[must_use]
    pub fn section(self) -> &'static str {
        match self {
            Self::Counters => "redis",
            Self::Answers => "cache.redis",
        }
    }
}

/// What was found out. Every text begins with the server's name, and none holds a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// What is as it should be.
    pub facts: Vec<String>,
    /// What works, but not as it should.
    pub warnings: Vec<String>,
    /// What does not work.
    pub errors: Vec<String>,
    /// Tells the servers that were looked at from all others; those that do not say who they are are missing.
    pub identities: Vec<u64>,
}

/// Connects to every URL once and looks at who answers; in a cluster also to the masters, under the addresses that the
/// cluster announces. Takes a second or so for each that does not answer.
///
/// # Errors
/// When settings contradict each other, or the certificates can not be read.
pub async fn probe(settings: &Settings, purpose: Purpose) -> Result<Description, SettingsError> {
    let dial = Dial::new(settings)?;
    let mut description = Description::default();
    for url in &settings.urls {
        if let Err(error) = look(&dial, &url.endpoint, purpose, &mut description).await {
            let text = format!("{} {url}: {error}", purpose.section());
            description.errors.push(text);
        }
    }
    if dial.cluster && description.errors.is_empty() {
        look_at_cluster(&dial, settings, purpose, &mut description).await;
    }
    Ok(description)
}

/// Seeds are reached by the operator's addresses, keys by those that the cluster announces.
async fn look_at_cluster(dial: &Dial, settings: &Settings, purpose: Purpose, description: &mut Description) {
    let section = purpose.section();
    let Some(seed) = settings.urls.first() else { return };
    match masters(&seed.endpoint, dial).await {
        Ok((masters, unassigned)) => {
            if unassigned > 0 {
                let text = format!("{section} cluster: {unassigned} of {SLOTS} slots have no server");
                description.errors.push(text);
            }
            for master in masters {
                match dial.open(&master).await {
                    Err(trouble) => description.errors.push(format!(
                        "{section} {master}: this is where the cluster says that a master is, but: {}",
                        trouble.text
                    )),
                    Ok(opened) => {
                        description.identities.extend(opened.facts.identity);
                        let text = format!("{section} {master}: master of the cluster");
                        description.facts.push(text);
                    }
                }
            }
        }
        Err(trouble) => description.errors.push(format!("{section} cluster: {}", trouble.text)),
    }
}

async fn look(dial: &Dial, endpoint: &Endpoint, purpose: Purpose, description: &mut Description) -> Result<(), String> {
    let section = purpose.section();
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
        "{section} {endpoint}: version {}, mode {}, role {}, maxmemory-policy {}, round trip {:?}",
        shown(&facts.version),
        shown(&facts.mode),
        shown(&facts.role),
        shown(&policy),
        opened.received.saturating_duration_since(opened.sent),
    ));
    description.identities.extend(facts.identity);
    let mut warn = |text: String| description.warnings.push(format!("{section} {endpoint}: {text}"));
    if facts.identity.is_none() {
        warn(
            "it does not say who it is, so that after every reconnection its data counts as changed; let the user run \
             INFO"
                .to_owned(),
        );
    }
    let aof = field(&answers, "aof_enabled");
    match purpose {
        Purpose::Counters => fit_for_counters(policy.as_deref(), aof.as_deref())
            .into_iter()
            .for_each(warn),
        Purpose::Answers => {
            let memory = field(&answers, "maxmemory");
            fit_for_answers(policy.as_deref(), memory.as_deref())
                .into_iter()
                .for_each(warn);
        }
    }
    judge(&facts, dial.cluster)
}

/// What may cost counters.
fn fit_for_counters(policy: Option<&str>, aof: Option<&str>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
        warnings.push(format!(
            "maxmemory-policy is {policy}, so that counters may be evicted and limits begin anew; set it to noeviction"
        ));
    }
    if aof == Some("0") {
        warnings.push(
            "appendonly is off, so that a restart forgets what was used up; for limits per day or month set \
             appendonly yes"
                .to_owned(),
        );
    }
    warnings
}

/// What makes a server fill up with answers. They have a time to live and may go before it; what tells gateways of
/// invalidations has none and should stay, so of the policies those are best that look at what has one.
fn fit_for_answers(policy: Option<&str>, memory: Option<&str>) -> Vec<String> {
    match (policy, memory) {
        (_, Some("0")) => vec![
            "it has no maxmemory, so that kept answers may fill the memory of its host; set maxmemory, and \
             maxmemory-policy volatile-lfu"
                .to_owned(),
        ],
        (Some("noeviction"), Some(_)) => vec![
            "maxmemory-policy is noeviction, so that no answer is kept and no invalidation is told once its memory is \
             full; set it to volatile-lfu"
                .to_owned(),
        ],
        _ => Vec::new(),
    }
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
    fn answers_want_a_bound_and_eviction_where_counters_want_none() {
        assert!(fit_for_answers(Some("volatile-lfu"), Some("1048576")).is_empty());
        assert!(fit_for_answers(None, None).is_empty());
        for (policy, memory, expected) in [
            ("noeviction", "0", "no maxmemory"),
            ("allkeys-lru", "0", "no maxmemory"),
            ("noeviction", "1048576", "set it to volatile-lfu"),
        ] {
            let found = fit_for_answers(Some(policy), Some(memory)).concat();
            assert!(found.contains(expected), "{found}");
        }
        assert!(fit_for_counters(Some("noeviction"), Some("1")).is_empty());
        let found = fit_for_counters(Some("allkeys-lru"), Some("0")).join("; ");
        assert!(
            found.contains("counters may be evicted") && found.contains("appendonly yes"),
            "{found}"
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(number("5.0.14").unwrap() < OLDEST);
        assert!(number("6.0.0").unwrap() >= OLDEST);
        assert!(number("10.2.1").unwrap() >= OLDEST);
        assert_eq!(number("unstable"), None);
    }
}
