//! Whether a server that answers does none of the work: because its memory is full, because it can not write to its
//! disk, because too few replicas follow it, because a script keeps it busy, or because the user may not count.
//!
//! Such an error is the answer to a single command, and others may pass: a full server still reads, and PING says nothing
//! of it. So only commands that count are looked at, and what has the last word is a [`Trial`], a command that counts
//! nothing and fails in the same way. It closes the breaker again, too: were a PING enough for that, the breaker would
//! open and close all the time.

use std::time::{Duration, Instant, SystemTime};

use ::redis::{Arg, Cmd, Pipeline, ServerError, Value};

/// So many pipelines in a row, over at least this time, are worth a trial.
const PIPELINES: u32 = 3;
const PERIOD: Duration = Duration::from_millis(100);

/// How a server says that it does not work, whatever it is asked to count.
const CODES: [&str; 5] = ["OOM", "MISCONF", "NOREPLICAS", "NOPERM", "BUSY"];

/// The trial's counter is forgotten after this long.
const FORGET: Duration = Duration::from_secs(1);

/// The pipelines in a row in which a command that counts was refused and none was done.
#[derive(Debug, Default)]
pub(super) struct Refusals(Option<Row>);

#[derive(Debug)]
struct Row {
    since: Instant,
    pipelines: u32,
    is_long: bool,
    trial: Trial,
}

impl Refusals {
    /// Notes the replies to a pipeline. True if there has to be a trial now.
    pub(super) fn note(
        &mut self,
        pipeline: &Pipeline,
        values: &[Result<Value, ServerError>],
        received: Instant,
    ) -> bool {
        match Sign::of(pipeline, values) {
            Sign::None => {}
            Sign::Done => self.0 = None,
            Sign::Refused(trial) => {
                let row = self.0.get_or_insert_with(|| Row {
                    since: received,
                    pipelines: 0,
                    is_long: false,
                    trial: trial.clone(),
                });
                row.pipelines = row.pipelines.saturating_add(1);
                // The latest, because slots may move.
                row.trial = trial;
                row.is_long |= row.pipelines >= PIPELINES && received.saturating_duration_since(row.since) >= PERIOD;
            }
        }
        self.trial().is_some()
    }

    /// What the server has to do before it is trusted again, if it is not.
    pub(super) fn trial(&self) -> Option<&Trial> {
        self.0.as_ref().filter(|row| row.is_long).map(|row| &row.trial)
    }

    /// The trial went well.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// What the replies to a pipeline say.
enum Sign {
    Done,
    Refused(Trial),
    None,
}

impl Sign {
    fn of(pipeline: &Pipeline, values: &[Result<Value, ServerError>]) -> Self {
        // The replies to a transaction are more than its commands. What is in one is not looked at.
        if pipeline.is_transaction() {
            return Self::None;
        }
        let mut sign = Self::None;
        for (command, value) in pipeline.cmd_iter().zip(values) {
            let Some(way) = Way::of(command) else { continue };
            match value {
                Ok(_) if way == Way::Plain => return Self::Done,
                // A script may have found nothing to write.
                Ok(_) => {}
                Err(error) if is_refusal(error) => {
                    if let Some(trial) = Trial::like(command, way) {
                        sign = Self::Refused(trial);
                    }
                }
                Err(_) => {}
            }
        }
        sign
    }
}

/// Whether the error says that the server takes no work of this kind, from whomever and whatever the key.
pub(super) fn is_refusal(error: &ServerError) -> bool {
    // Before version 7, what a script was refused is inside of an error of the script.
    let inside = |details: &str| CODES.iter().any(|code| details.contains(&format!(": -{code} ")));
    CODES.contains(&error.code()) || (error.code() == "ERR" && error.details().is_some_and(inside))
}

/// How a command counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Script,
}

impl Way {
    /// None if the command does not count, so that it may pass where counting is refused.
    fn of(command: &Cmd) -> Option<Self> {
        let Some(Arg::Simple(name)) = command.args_iter().next() else {
            return None;
        };
        match name {
            b"INCRBY" | b"DECRBY" => Some(Self::Plain),
            b"EVAL" | b"EVALSHA" => Some(Self::Script),
            _ => None,
        }
    }
}

/// A command that fails like one that was refused, and counts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trial {
    key: Vec<u8>,
    way: Way,
}

impl Trial {
    /// None if the command has no key.
    fn like(command: &Cmd, way: Way) -> Option<Self> {
        let position = if way == Way::Script { 3 } else { 1 };
        match command.args_iter().nth(position) {
            Some(Arg::Simple(key)) => Some(Self {
                key: neighbour(key),
                way,
            }),
            _ => None,
        }
    }

    /// Adds the commands.
    pub(super) fn add_to(&self, pipeline: &mut Pipeline) {
        match self.way {
            Way::Plain => pipeline.cmd("INCRBY").arg(&self.key).arg(0),
            Way::Script => pipeline
                .cmd("EVAL")
                .arg("return redis.call('INCRBY', KEYS[1], 0)")
                .arg(1)
                .arg(&self.key),
        };
        // If the clocks differ, it stays a little longer, or is gone at once. Either is fine.
        let end = SystemTime::now() + FORGET;
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let end = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("PEXPIREAT").arg(&self.key).arg(end);
    }
}

/// A key that nobody counts in, of the same slot: a node of a cluster says MOVED before it says that it is full. It begins
/// in the same way, because the user may not be allowed other keys.
fn neighbour(key: &[u8]) -> Vec<u8> {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let length = rest
            .iter()
            .position(|byte| *byte == b'}')
            .filter(|length| *length > 0)?;
        key.get(..open + 1 + length + 1)
    });
    match tag {
        Some(tag) => [tag, b"probe"].concat(),
        None => [key, b"{", key, b"}probe"].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(commands: &[&[&str]]) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.cmd(command[0]).arg(&command[1..]);
        }
        pipeline
    }

    fn value(text: &str) -> Result<Value, ServerError> {
        match ::redis::parse_redis_value(format!("{text}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => Err(error),
            value => Ok(value),
        }
    }

    /// The pipelines one after the other, 60 ms apart; whether the last one makes a trial due.
    fn noted(pipelines: &[(&[&[&str]], &[&str])]) -> bool {
        let mut refusals = Refusals::default();
        let mut now = Instant::now();
        let mut due = false;
        for (commands, values) in pipelines {
            let values: Vec<_> = values.iter().map(|text| value(text)).collect();
            due = refusals.note(&pipeline(commands), &values, now);
            now += Duration::from_millis(60);
        }
        due
    }

    const FULL: &str = "-OOM command not allowed when used memory > 'maxmemory'.";

    #[test]
    fn three_refused_pipelines_in_a_row_are_due_for_a_trial_though_reads_pass() {
        let take: &[&[&str]] = &[&["INCRBY", "tg1{a}b", "5"], &["PEXPIREAT", "tg1{a}b", "1"], &["TIME"]];
        let refused = (take, &[FULL, ":0", "*0"][..]);
        let done = (take, &[":5", ":1", "*0"][..]);
        let quiet: (&[&[&str]], &[&str]) = (&[&["PING"]], &["+PONG"]);
        assert!(!noted(&[refused, refused]));
        assert!(noted(&[refused, refused, refused]));
        assert!(noted(&[refused, quiet, refused, quiet, refused]));
        assert!(!noted(&[refused, refused, done, refused, refused]));
    }

    #[test]
    fn refusals_at_once_are_not_a_row() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert!(!refusals.note(&pipeline(&[&["INCRBY", "a", "1"]]), &[value(FULL)], now));
        }
    }

    #[test]
    fn one_kind_that_is_refused_among_others_that_are_done_is_not_a_row() {
        let mixed: (&[&[&str]], &[&str]) = (
            &[&["INCRBY", "a", "5"], &["EVAL", "return", "1", "b"]],
            &[":5", "-NOPERM this user has no permissions to run the 'eval' command"],
        );
        assert!(!noted(&[mixed; 9]));
        let script = (&mixed.0[1..], &mixed.1[1..]);
        assert!(noted(&[script; 3]));
    }

    #[test]
    fn other_errors_say_nothing_and_those_inside_of_a_script_do() {
        for (text, expected) in [
            (FULL, true),
            ("-MISCONF Errors writing to the AOF file", true),
            ("-NOREPLICAS Not enough good replicas to write.", true),
            ("-BUSY Redis is busy running a script.", true),
            (
                "-ERR Error running script (call to f_0): @user_script:3: -OOM command not allowed",
                true,
            ),
            ("-ERR value is not an integer or out of range", false),
            ("-NOSCRIPT No matching script.", false),
            ("-MOVED 1 127.0.0.1:7000", false),
            (
                "-WRONGTYPE Operation against a key holding the wrong kind of value",
                false,
            ),
        ] {
            assert_eq!(is_refusal(&value(text).unwrap_err()), expected, "{text}");
        }
    }

    #[test]
    fn the_key_of_a_trial_is_a_neighbour_of_the_one_that_was_refused() {
        for (key, expected) in [
            ("tg1{subject}limit.7", "tg1{subject}probe"),
            ("plain", "plain{plain}probe"),
        ] {
            assert_eq!(neighbour(key.as_bytes()), expected.as_bytes());
        }
        let pipeline = pipeline(&[&["EVALSHA", "abc", "1", "tg1{a}b", "5"], &["EVAL", "return 1", "0"]]);
        let trials: Vec<_> = pipeline
            .cmd_iter()
            .map(|command| Trial::like(command, Way::Script).map(|trial| trial.key))
            .collect();
        assert_eq!(trials, [Some(b"tg1{a}probe".to_vec()), None]);
    }
}
