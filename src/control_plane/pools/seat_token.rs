//! The token of a seat: what a control plane has signed, so that it believes it again after it has forgotten it.

use serde::{Deserialize, Serialize};

use crate::distribution::{Signed, SigningKey, Topic};

/// The longest token that is read; one of ours has a third of it.
const LONGEST: usize = 4096;

/// What is signed. Fields that a later version adds are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeatClaim {
    /// Whose seat it is.
    pub(super) instance_id: String,
    /// Where.
    pub(super) pool: String,
    /// Which store knows of it.
    #[serde(default)]
    pub(super) store: u64,
    /// Unix milliseconds at which it was given.
    pub(super) issued_ms: u64,
}

impl SeatClaim {
    /// The token that says so; none if it can not be written, which does not happen to texts and numbers.
    pub(super) fn to_token(&self, key: &SigningKey) -> Option<String> {
        let text = serde_json::to_string(self).ok()?;
        serde_json::to_string(&Signed::new(Topic::Seat, text, key)).ok()
    }

    /// What a token says, if it is one of this control plane for this instance.
    pub(super) fn of_token(token: &str, instance_id: &str, key: &SigningKey) -> Option<Self> {
        if token.len() > LONGEST {
            return None;
        }
        let signed: Signed = serde_json::from_str(token).ok()?;
        let text = signed.verify(Topic::Seat, &[key.public()]).ok()?;
        let claim: Self = serde_json::from_str(text).ok()?;
        (claim.instance_id == instance_id).then_some(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_instance_and_its_control_plane_alone() {
        let (key, _) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let claim = SeatClaim {
            instance_id: "a1".to_owned(),
            pool: "default".to_owned(),
            store: 7,
            issued_ms: 1000,
        };
        let token = claim.to_token(&key).unwrap();
        assert_eq!(SeatClaim::of_token(&token, "a1", &key), Some(claim.clone()));
        assert_eq!(SeatClaim::of_token(&token, "a2", &key), None);
        assert_eq!(SeatClaim::of_token(&token, "a1", &other), None);
        assert_eq!(
            SeatClaim::of_token(&token.replace("default", "another"), "a1", &key),
            None
        );
        assert_eq!(SeatClaim::of_token("", "a1", &key), None);
        assert_eq!(SeatClaim::of_token(&" ".repeat(LONGEST + 1), "a1", &key), None);
        // A manifest that says the same is no seat.
        let manifest = Signed::new(Topic::Manifest, serde_json::to_string(&claim).unwrap(), &key);
        assert_eq!(
            SeatClaim::of_token(&serde_json::to_string(&manifest).unwrap(), "a1", &key),
            None
        );
    }
}
