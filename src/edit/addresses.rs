//! Which client addresses are let in.
//!
//! Of all ranges that hold an address, the smallest decides, so that "all but these, except for that one" can be said in
//! any order. First deny, then allow was rejected: it has no way to let one host of a denied range in.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::revision::AddressRules;

/// Ranges, ready to be asked: the cost of a question grows with the number of different prefix lengths, of which there
/// are at most 33 or 129, and not with that of ranges.
#[derive(Debug)]
pub struct Addresses {
    v4: Lengths<u32>,
    v6: Lengths<u128>,
    /// For an address in no range.
    otherwise: bool,
}

/// By prefix length, the longest first: the ranges of that length and whether they are let in.
type Lengths<B> = Vec<(u8, HashMap<B, bool>)>;

/// What is said about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is let in.
    pub allowed: bool,
    /// The range that decided; none when no range holds the address.
    pub by: Option<IpNet>,
}

impl Addresses {
    /// Compiles the rules.
    #[must_use]
    pub fn compile(rules: &AddressRules) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let allowed = rules.allow.iter().map(|range| (range, true));
        for (range, allowed) in allowed.chain(rules.deny.iter().map(|range| (range, false))) {
            match range {
                IpNet::V4(range) => put(&mut v4, range.prefix_len(), u32::from(range.network()), allowed),
                IpNet::V6(range) => put(&mut v6, range.prefix_len(), u128::from(range.network()), allowed),
            }
        }
        v4.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        v6.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Self {
            v4,
            v6,
            otherwise: rules.allow.is_empty(),
        }
    }

    /// What is said about a client. One whose address is not known is not let in: nobody could say that it may come.
    #[must_use]
    pub fn verdict(&self, client: Option<IpAddr>) -> Verdict {
        let found = match client.map(|client| client.to_canonical()) {
            None => {
                return Verdict {
                    allowed: false,
                    by: None,
                };
            }
            Some(IpAddr::V4(address)) => smallest(&self.v4, |length| u32::from(address) & mask_v4(length)),
            Some(IpAddr::V6(address)) => smallest(&self.v6, |length| u128::from(address) & mask_v6(length)),
        };
        let client = client.map(|client| client.to_canonical());
        Verdict {
            allowed: found.map_or(self.otherwise, |(_, allowed)| allowed),
            by: found.zip(client).and_then(|((length, _), client)| {
                let range = IpNet::new(client, length).ok()?;
                Some(range.trunc())
            }),
        }
    }
}

fn put<B: Eq + Hash>(lengths: &mut Lengths<B>, length: u8, network: B, allowed: bool) {
    match lengths.iter_mut().find(|(there, _)| *there == length) {
        Some((_, ranges)) => ranges.insert(network, allowed),
        None => {
            lengths.push((length, HashMap::from([(network, allowed)])));
            None
        }
    };
}

fn smallest<B: Eq + Hash>(lengths: &Lengths<B>, network: impl Fn(u8) -> B) -> Option<(u8, bool)> {
    lengths
        .iter()
        .find_map(|(length, ranges)| ranges.get(&network(*length)).map(|allowed| (*length, *allowed)))
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn rules(allow: &[&str], deny: &[&str]) -> Addresses {
        Addresses::compile(&AddressRules {
            allow: ranges(allow),
            deny: ranges(deny),
        })
    }

    fn lets_in(addresses: &Addresses, client: &str) -> bool {
        addresses.verdict(Some(client.parse().unwrap())).allowed
    }

    #[test]
    fn the_smallest_range_decides_whatever_the_list_it_is_in() {
        let addresses = rules(&["10.0.0.0/8", "10.9.1.1/32"], &["10.9.0.0/16"]);
        assert!(lets_in(&addresses, "10.1.2.3"));
        assert!(!lets_in(&addresses, "10.9.1.2"));
        assert!(lets_in(&addresses, "10.9.1.1"));
        assert!(
            !lets_in(&addresses, "192.0.2.1"),
            "in no range, and there is a list of those let in"
        );
        let verdict = addresses.verdict(Some("10.9.1.2".parse().unwrap()));
        assert_eq!(verdict.by, Some("10.9.0.0/16".parse().unwrap()));
    }

    #[test]
    fn with_denied_ranges_alone_everybody_else_is_let_in() {
        let addresses = rules(&[], &["0.0.0.0/0", "2001:db8::/32"]);
        assert!(!lets_in(&addresses, "192.0.2.1"));
        assert!(!lets_in(&addresses, "2001:db8::1"));
        assert!(lets_in(&addresses, "2001:db9::1"));
    }

    #[test]
    fn an_ipv4_client_is_the_same_in_ipv6_clothes_and_an_unknown_one_is_nobody() {
        let addresses = rules(&["192.0.2.0/24"], &[]);
        assert!(lets_in(&addresses, "::ffff:192.0.2.7"));
        assert!(!addresses.verdict(None).allowed);
        assert!(!rules(&[], &["192.0.2.0/24"]).verdict(None).allowed);
    }

    proptest! {
        #[test]
        fn it_says_what_a_look_at_every_range_says(
            list in prop::collection::hash_map((any::<u32>(), 0_u8..=32), any::<bool>(), 0..20),
            client: u32,
            near in any::<prop::sample::Index>(),
        ) {
            let nets: HashMap<IpNet, bool> = list
                .iter()
                .map(|((bits, length), allowed)| {
                    let net = IpNet::new(IpAddr::V4((*bits).into()), *length).unwrap().trunc();
                    (net, *allowed)
                })
                .collect();
            let of = |wanted: bool| nets.iter().filter(|(_, allowed)| **allowed == wanted).map(|(net, _)| *net).collect();
            let rules = AddressRules { allow: of(true), deny: of(false) };
            let addresses = Addresses::compile(&rules);
            let mut clients = vec![IpAddr::V4(client.into())];
            if !nets.is_empty() {
                clients.push(near.get(&nets.keys().collect::<Vec<_>>()).broadcast());
            }
            for client in clients {
                let naive = nets
                    .iter()
                    .filter(|(net, _)| net.contains(&client))
                    .max_by_key(|(net, _)| net.prefix_len())
                    .map_or(rules.allow.is_empty(), |(_, allowed)| *allowed);
                prop_assert_eq!(addresses.verdict(Some(client)).allowed, naive);
            }
        }
    }
}
