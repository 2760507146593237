//! Commands that a node of a cluster sends elsewhere, because their slot is moving.
//!
//! While a slot moves, its old node still has it, and answers ASK for every key that it does not have (any more): the
//! new node takes such a command if ASKING comes right before it. Nothing changes in who has the slot until the last key
//! has moved, which may take long.

use std::collections::BTreeMap;

use ::redis::{Pipeline, ServerError, Value};

use super::settings::Endpoint;

/// Which commands of a pipeline have to be sent to whom, by their positions, in order. Nothing of a transaction: it can
/// not be taken apart.
pub(super) fn asked_elsewhere(
    pipeline: &Pipeline,
    values: &[Result<Value, ServerError>],
    asked: &Endpoint,
) -> BTreeMap<Endpoint, Vec<usize>> {
    let mut elsewhere: BTreeMap<Endpoint, Vec<usize>> = BTreeMap::new();
    if pipeline.is_transaction() {
        return elsewhere;
    }
    for (position, value) in values.iter().enumerate() {
        if let Err(error) = value
            && error.code() == "ASK"
            && let Some(target) = error.details().and_then(|details| target(details, asked))
        {
            elsewhere.entry(target).or_default().push(position);
        }
    }
    elsewhere
}

/// These commands, with ASKING before each.
pub(super) fn asking(pipeline: &Pipeline, positions: &[usize]) -> Pipeline {
    let mut asking = Pipeline::with_capacity(positions.len() * 2);
    let mut positions = positions.iter().peekable();
    for (position, command) in pipeline.cmd_iter().enumerate() {
        if positions.next_if_eq(&&position).is_some() {
            asking.cmd("ASKING").add_command(command.clone());
        }
    }
    asking
}

/// Puts the answers to [`asking`] in the place of the errors.
pub(super) fn put_in_place(
    values: &mut [Result<Value, ServerError>],
    positions: &[usize],
    answers: Vec<Result<Value, ServerError>>,
) {
    // Every other answer is that to ASKING; if that is an error, so is the one to the command.
    for (position, answer) in positions.iter().zip(answers.into_iter().skip(1).step_by(2)) {
        if let Some(value) = values.get_mut(*position) {
            *value = answer;
        }
    }
}

/// The address in `SLOT HOST:PORT`.
fn target(details: &str, asked: &Endpoint) -> Option<Endpoint> {
    let (_, address) = details.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match (host, asked) {
        ("?", _) | ("", Endpoint::Unix(_)) => return None,
        // As in CLUSTER SLOTS: the host that was asked.
        ("", Endpoint::Tcp { host, .. }) => host,
        (host, _) => host,
    };
    Some(Endpoint::tcp(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<Value, ServerError> {
        match ::redis::parse_redis_value(format!("{text}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => Err(error),
            value => Ok(value),
        }
    }

    #[test]
    fn an_address_is_read_in_every_writing_and_an_unknown_one_is_none() {
        let asked = Endpoint::tcp("asked", 1);
        for (details, expected) in [
            ("3999 127.0.0.1:6381", Some(Endpoint::tcp("127.0.0.1", 6381))),
            ("3999 ::1:6381", Some(Endpoint::tcp("::1", 6381))),
            ("3999 :6381", Some(Endpoint::tcp("asked", 6381))),
            ("3999 ?:6381", None),
            ("3999 host:70000", None),
            ("3999 host", None),
            ("host:1", None),
            ("", None),
        ] {
            assert_eq!(target(details, &asked), expected, "{details}");
        }
        assert_eq!(target("1 :2", &Endpoint::Unix("/socket".into())), None);
    }

    #[test]
    fn only_what_was_sent_elsewhere_is_asked_again_and_its_answers_take_the_place_of_the_errors() {
        let mut pipeline = Pipeline::new();
        for key in ["a", "b", "c", "d", "e"] {
            pipeline.cmd("INCR").arg(key);
        }
        let mut values: Vec<_> = [":1", "-ASK 1 one:1", "-ASK 2 other:1", "-TRYAGAIN wait", "-ASK 1 one:1"]
            .map(value)
            .into();
        let elsewhere = asked_elsewhere(&pipeline, &values, &Endpoint::tcp("asked", 1));
        let expected = [
            (Endpoint::tcp("one", 1), vec![1, 4]),
            (Endpoint::tcp("other", 1), vec![2]),
        ];
        assert_eq!(elsewhere, BTreeMap::from(expected));

        let mut expected = Pipeline::new();
        expected
            .cmd("ASKING")
            .cmd("INCR")
            .arg("b")
            .cmd("ASKING")
            .cmd("INCR")
            .arg("e");
        assert_eq!(
            asking(&pipeline, &[1, 4]).get_packed_pipeline(),
            expected.get_packed_pipeline()
        );
        let answers = ["+OK", ":7", "+OK", "-OOM full"].map(value).into();
        put_in_place(&mut values, &[1, 4], answers);
        let expected: Vec<_> = [":1", ":7", "-ASK 2 other:1", "-TRYAGAIN wait", "-OOM full"]
            .map(value)
            .into();
        assert_eq!(values, expected);

        pipeline.atomic();
        assert!(asked_elsewhere(&pipeline, &values, &Endpoint::tcp("asked", 1)).is_empty());
    }
}
