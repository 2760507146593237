//! Verified tokens from one process to the next. Their texts do not go over: here they are hashes already.

use std::io;
use std::sync::Arc;

use super::VerifiedToken;
use super::cache::{CacheKey, TokenCache};
use crate::heritage::{Damaged, Format, Reader, Record, Sections, Sink};
use crate::revision::KeyType;

/// Verified tokens, each under its hash, the issuer's rules and the fingerprint of its keys. Another version whenever
/// tokens, rules or keys are read in another way.
pub const TOKENS: Format = Format {
    name: "tokens",
    version: 1,
};

impl TokenCache {
    /// Hands on every token that is still good. How many.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, now_ms: u64, sink: &mut Sink<'_>) -> io::Result<usize> {
        let mut sections = Sections::new(TOKENS, sink);
        for (key, token) in self.verified.iter() {
            if token.in_time(now_ms).is_ok() {
                sections.add(|record| {
                    record.fixed(&key.token);
                    record.fixed(&key.verifier);
                    record.fixed(&key.fingerprint);
                    token.write(record);
                })?;
            }
        }
        sections.end()
    }

    /// Takes tokens over from another process. How many.
    ///
    /// # Errors
    /// When the bytes are no tokens; then none is taken.
    pub fn inherit(&self, bytes: &[u8]) -> Result<usize, Damaged> {
        let records = Reader::new(bytes).all(|reader| {
            let key = CacheKey::new(reader.array()?, reader.array()?, reader.array()?);
            Ok((key, VerifiedToken::read(reader)?))
        })?;
        let count = records.len();
        for (key, token) in records {
            self.remember(key, Arc::new(token));
        }
        Ok(count)
    }
}

impl VerifiedToken {
    /// Describes it to another process.
    pub(in crate::auth) fn write(&self, record: &mut Record<'_>) {
        record.option(self.subject.as_deref(), Record::text);
        record.option(self.subject_hash, Record::long);
        record.option(self.application.as_deref(), Record::text);
        record.word(u32::try_from(self.scopes.len()).unwrap_or(u32::MAX));
        for scope in &self.scopes {
            record.text(scope);
        }
        record.byte(match self.key_type {
            None => 0,
            Some(KeyType::Production) => 1,
            Some(KeyType::Sandbox) => 2,
        });
        record.long(self.until_ms);
        record.long(self.from_ms);
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(in crate::auth) fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let text = |reader: &mut Reader<'_>| reader.text().map(Box::from);
        Ok(Self {
            subject: reader.option(text)?,
            subject_hash: reader.option(Reader::long)?,
            application: reader.option(text)?,
            // Nothing is reserved by what a number says: each takes bytes that are there.
            scopes: (0..reader.word()?).map(|_| text(reader)).collect::<Result<_, _>>()?,
            key_type: match reader.byte()? {
                0 => None,
                1 => Some(KeyType::Production),
                2 => Some(KeyType::Sandbox),
                _ => return Err(Damaged),
            },
            until_ms: reader.long()?,
            from_ms: reader.long()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject_hash;
    use super::*;
    use crate::heritage::Section;

    const NOW: u64 = 1_795_239_738_123;

    fn token(subject: &str, until_ms: u64) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken {
            subject: Some(subject.into()),
            subject_hash: Some(subject_hash("https://issuer.example", subject)),
            application: None,
            scopes: ["orders:read", "orders:write"].map(Box::from).into(),
            key_type: Some(KeyType::Sandbox),
            until_ms,
            from_ms: 0,
        })
    }

    fn handed_on(cache: &TokenCache) -> Vec<Section> {
        let mut sections = Vec::new();
        cache
            .hand_on(NOW, &mut |section| {
                sections.push(section);
                Ok(())
            })
            .unwrap();
        sections
    }

    #[test]
    fn tokens_are_known_to_the_next_process_by_the_same_keys_and_rules_alone() {
        let old = TokenCache::new(100);
        let key = |token: u8, keys: u8| CacheKey::new([token; 32], [2; 16], [keys; 16]);
        old.remember(key(1, 3), token("ann", NOW + 1));
        old.remember(key(2, 3), token("bob", NOW));
        let new = TokenCache::new(100);
        for section in handed_on(&old) {
            assert_eq!(new.inherit(&section.bytes), Ok(1), "one has expired");
        }
        let known = new.verified(&key(1, 3)).unwrap();
        let was = token("ann", NOW + 1);
        assert_eq!(known.subject(), was.subject());
        assert_eq!(known.subject_hash(), was.subject_hash());
        assert_eq!(known.key_type(), was.key_type());
        assert!(known.has_scope("orders:write") && !known.has_scope("orders"));
        assert_eq!(known.valid_until_ms(), was.valid_until_ms());
        assert!(new.verified(&key(1, 4)).is_none(), "other keys");
        assert!(new.verified(&key(2, 3)).is_none(), "expired");
    }
}
